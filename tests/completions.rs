//! `mangahub completions`: a real shell takes the script and completes with it.

use std::process::Command;

use crate::support::{Finished, mangahub};

/// What bash offers for the last of `words`.
fn offered(script: &str, words: &[&str]) -> Vec<String> {
    let ask = format!(
        "{script}\nCOMP_WORDS=({}); COMP_CWORD={}; _mangahub mangahub {:?} {:?}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let asked = Finished::run(Command::new("bash").args(["--norc", "-c", &ask])).done();
    asked.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = Finished::run(mangahub().args(["completions", "bash"])).done().stdout;
    assert_eq!(offered(&script, &["mangahub", "comp"]), ["completions"]);
    assert_eq!(offered(&script, &["mangahub", "admin", "se"]), ["seed"]);
    assert_eq!(offered(&script, &["mangahub", "admin", "seed", "--tok"]), ["--tokens"]);
    assert_eq!(offered(&script, &["mangahub", "--output", "js"]), ["json"]);
}

#[test]
fn every_shell_has_a_script_and_json_carries_it() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = Finished::run(mangahub().args(["completions", shell])).done().stdout;
        assert!(script.contains("port-base") && script.contains("promote"), "{shell}: {script}");
        let answer = Finished::run(mangahub().args(["completions", shell, "--output=json"])).done().json();
        assert_eq!((answer["shell"].as_str(), answer["script"].as_str()), (Some(shell), Some(script.as_str())));
        assert_eq!(Finished::run(mangahub().args(["completions", shell, "--quiet"])).done().stdout, "");
    }
    assert_eq!(Finished::run(mangahub().args(["completions", "cmd.exe"])).code(), 2);
}
