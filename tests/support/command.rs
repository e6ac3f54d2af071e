//! Runs of the real command line.

use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;

use serde_json::Value;

use super::PATIENCE;

/// The binary, with an environment that sets nothing.
pub(crate) fn mangahub() -> Command {
    mangahub_through(&[])
}

/// The same behind a launcher: a program and its arguments, which runs what follows them.
pub(crate) fn mangahub_through(launcher: &[String]) -> Command {
    let own = env!("CARGO_BIN_EXE_mangahub");
    let mut command = match launcher {
        [] => Command::new(own),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(own);
            command
        }
    };
    command.env_clear().stdin(Stdio::null());
    // A configuration in the developer's home must not change what a test sees.
    command.env("HOME", "/nonexistent").env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Runs it to its end, which must come.
    #[track_caller]
    pub(crate) fn run(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = child.id().to_string();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let Ok(output) = receiver.recv_timeout(PATIENCE) else {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
            let output = receiver.recv();
            panic!("{command:?} did not end within {PATIENCE:?}: {output:?}");
        };
        let output = output.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap()
    }

    /// Insists that it worked.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// Its answer, for a command with `--output json`.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
