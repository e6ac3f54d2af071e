//! Where the CPU time of an update goes: `perf` samples the server's process while it is measured, and each sample belongs to the
//! stage of its innermost function that the table below knows. Threads that do one kind of work belong to it whole. What no rule
//! knows is `other`, shown with its functions, so that the table cannot rot unseen.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde::Serialize;

use crate::threads::group_of;

/// Samples per second and thread: a prime, so that nothing periodic is always hit or always missed.
const SAMPLES_PER_S: u32 = 397;
/// Bytes of stack that are kept with a sample; the innermost known function is nearly always within them.
const STACK_BYTES: u32 = 8_192;
/// Functions that are shown for a stage that explains itself least.
const SHOWN_MAX: usize = 8;

/// Stages in the order in which an update meets them.
pub const STAGES: [&str; 11] =
    ["socket", "decode", "apply", "encode", "journal", "ack", "announce", "hand to store", "store", "runtime", "other"];

/// Threads that do one kind of work.
const THREADS: &[(&str, &str)] = &[
    ("journal", "journal"),
    ("journal-room", "journal"),
    ("store-feed", "hand to store"),
    ("store-writer", "store"),
    ("store-read", "store"),
];

/// Functions by the start of their names, on shards. The longest start that fits decides; a leading `<` is passed over. Functions
/// of the kernel are the names without a path; only those are listed that say what the work is, so that other system calls belong to
/// whoever makes them.
const FUNCTIONS: &[(&str, &str)] = &[
    // The sending and receiving, and what the kernel does for it. Loopback: the receiver's share of a send is in it too.
    ("tcp_", "socket"),
    ("__tcp_", "socket"),
    ("ip_", "socket"),
    ("__ip_", "socket"),
    ("sock_", "socket"),
    ("io_send", "socket"),
    ("io_recv", "socket"),
    ("io_poll_", "socket"),
    ("io_arm_", "socket"),
    ("io_async_", "socket"),
    ("net_rx_action", "socket"),
    ("runtime::net::", "socket"),
    ("monoio::net::", "socket"),
    ("monoio::driver::op::", "socket"),
    ("protocols::tcp_sync::transport::", "socket"),
    // Bytes to frames to commands.
    ("proto::frame::access::", "decode"),
    ("proto::frame::header::", "decode"),
    ("proto::frame::message::", "decode"),
    ("protocols::tcp_sync::frames::Frames as protocols::tcp_sync::link::Wire>::take", "decode"),
    ("protocols::tcp_sync::link::Link<W>::submit", "decode"),
    ("protocols::tcp_sync::link::Link<W>::listen", "decode"),
    ("runtime::buffer::", "decode"),
    // Limits and rules on the state in memory.
    ("hub::", "apply"),
    ("engine::attach::Attachment::submit", "apply"),
    ("engine::catalogue::", "apply"),
    ("engine::commands::", "apply"),
    ("engine::limits::", "apply"),
    ("engine::users::", "apply"),
    // The record, as it goes to the journal.
    ("engine::commands::<impl engine::core::Core>::journal_change", "encode"),
    ("storage::journal::format::", "encode"),
    ("storage::record::", "encode"),
    // The shard's end of the journal; the rest of it has threads of its own.
    ("engine::core::Core::close_turn", "journal"),
    ("storage::journal::", "journal"),
    // From the gate to the bytes of the answer.
    ("engine::attach::Attachment::next", "ack"),
    ("engine::attach::Attachment::try_next", "ack"),
    ("engine::connections::", "ack"),
    ("engine::core::", "ack"),
    ("proto::frame::progress::", "ack"),
    ("protocols::tcp_sync::frames::", "ack"),
    ("protocols::tcp_sync::link::Link<W>::last_words", "ack"),
    ("protocols::tcp_sync::link::Link<W>::speak", "ack"),
    // The same for those who are told; the writing to them is the socket's.
    ("bytes::bytes::", "announce"),
    ("engine::commands::<impl engine::core::Core>::announce_change", "announce"),
    ("engine::connections::Connections::announce", "announce"),
    ("engine::core::Core::announce", "announce"),
    ("engine::fanout::", "announce"),
    ("protocols::tcp_sync::frames::announcement", "announce"),
    // Tasks, wakes, timers and the ring itself.
    ("__do_sys_io_uring_enter", "runtime"),
    ("futures_util::", "runtime"),
    ("io_cqring_wait", "runtime"),
    ("monoio::", "runtime"),
    ("runtime::", "runtime"),
    // Anything else of the server's is work that has no stage yet, not the runtime that called it.
    ("engine::", "other"),
    ("hyper::", "other"),
    ("protocols::", "other"),
    ("storage::", "other"),
];

/// Why nothing can be sampled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no perf.
    #[error(
        "--stages needs perf, which is not here ({0}); install it (Debian: linux-perf, Ubuntu: linux-tools-generic)"
    )]
    NoPerf(io::Error),
    /// It refused, or gave nothing.
    #[error("perf gave no samples: {0}; it may need root, or kernel.perf_event_paranoid at 1 or less")]
    Refused(String),
    /// Reading from it failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Samples per stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    by_stage: BTreeMap<&'static str, u64>,
    /// Innermost functions of what explains itself least, by stage.
    functions: BTreeMap<(&'static str, String), u64>,
}

/// One stage's share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Of all samples.
    pub per_cent: f64,
    /// Of the server's CPU per update.
    pub us_per_update: f64,
    /// What it is mostly made of, for `runtime` and `other`: functions and their per cent of all samples.
    pub mostly: Vec<(String, f64)>,
}

/// perf at work.
pub struct Sampling {
    child: Child,
    folder: tempfile::TempDir,
}

/// Whether there is a perf at all: asked before a run rather than after it.
pub fn check() -> Result<(), Error> {
    Command::new("perf").arg("--version").output().map(drop).map_err(Error::NoPerf)
}

impl Sampling {
    /// Begins to sample a process; the first sample comes some ten milliseconds later.
    pub fn start(pid: u32) -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "--freq", &SAMPLES_PER_S.to_string()]);
        command.args(["--call-graph", &format!("dwarf,{STACK_BYTES}"), "--pid", &pid.to_string(), "--output"]);
        command.arg(folder.path().join("perf.data")).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(std::fs::File::create(folder.path().join("perf.log"))?).spawn();
        Ok(Self { child: child.map_err(Error::NoPerf)?, folder })
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<Recorded, Error> {
        // perf writes its file out on SIGINT, and then ends by it, so its status says nothing.
        Command::new("kill").arg("-INT").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir()?);
        Ok(Recorded { folder })
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        // Fails when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was sampled, still as perf keeps it.
pub struct Recorded {
    folder: tempfile::TempDir,
}

impl Recorded {
    /// Gives every sample its stage; takes about a millisecond for each.
    pub fn attribute(&self) -> Result<Samples, Error> {
        let log = std::fs::File::create(self.folder.path().join("script.log"))?;
        let mut command = Command::new("perf");
        command.args(["script", "--no-inline", "--fields", "comm,ip,sym", "--input"]);
        command.arg(self.folder.path().join("perf.data")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(Error::NoPerf)?;
        let samples = child.stdout.take().map(|out| Samples::read(BufReader::new(out)));
        child.wait()?;
        match samples.transpose()? {
            Some(samples) if samples.total() > 0 => Ok(samples),
            _ => Err(Error::Refused(said(self.folder.path()))),
        }
    }
}

/// What perf itself had to say.
fn said(folder: &Path) -> String {
    let read = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    format!("{}{}", read("perf.log"), read("script.log")).trim().to_owned()
}

impl Samples {
    /// Reads `perf script --fields comm,ip,sym`: the thread's name on a line of its own, then a line for each function, the
    /// innermost first.
    pub fn read(text: impl BufRead) -> io::Result<Self> {
        let mut samples = Self::default();
        let mut thread = String::new();
        let mut functions: Vec<String> = Vec::new();
        for line in text.lines() {
            let line = line?;
            let frame = line.starts_with(char::is_whitespace);
            if frame && !line.trim().is_empty() {
                let name = line.trim().split_once(' ').map_or("[unknown]", |(_, name)| name.trim());
                functions.push(name.to_owned());
            } else {
                samples.add(&thread, &functions);
                functions.clear();
                line.trim().clone_into(&mut thread);
            }
        }
        samples.add(&thread, &functions);
        Ok(samples)
    }

    fn add(&mut self, thread: &str, functions: &[String]) {
        if functions.is_empty() {
            return;
        }
        let whole = THREADS.iter().find(|(name, _)| *name == group_of(thread));
        let known = functions.iter().find_map(|function| Some((function, stage_of(function)?)));
        let (function, stage) = match (whole, known) {
            (Some((_, stage)), _) => (&functions[0], *stage),
            (_, Some((function, "other"))) => (function, "other"),
            (_, Some((_, stage))) => (&functions[0], stage),
            (None, None) => (&functions[0], "other"),
        };
        *self.by_stage.entry(stage).or_default() += 1;
        if stage == "other" || stage == "runtime" {
            *self.functions.entry((stage, function.clone())).or_default() += 1;
        }
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.by_stage.values().sum()
    }

    /// The table: every stage's share of what an update costs.
    pub fn table(&self, cpu_us_per_update: f64) -> Vec<Stage> {
        let total = self.total().max(1) as f64;
        let share = |samples: u64| samples as f64 / total;
        let stage = |name: &'static str| {
            let of = self.by_stage.get(name).copied().unwrap_or(0);
            let mut mostly: Vec<(String, f64)> = self
                .functions
                .iter()
                .filter(|((stage, _), _)| *stage == name)
                .map(|((_, function), samples)| (function.clone(), share(*samples) * 100.0))
                .collect();
            mostly.sort_by(|left, right| right.1.total_cmp(&left.1));
            mostly.truncate(SHOWN_MAX);
            Stage { name, per_cent: share(of) * 100.0, us_per_update: share(of) * cpu_us_per_update, mostly }
        };
        STAGES.into_iter().map(stage).collect()
    }
}

/// The stage of one function, if the table knows it.
fn stage_of(function: &str) -> Option<&'static str> {
    let name = function.trim_start_matches('<');
    let fits = FUNCTIONS.iter().filter(|(start, _)| name.starts_with(start));
    fits.max_by_key(|(start, _)| start.len()).map(|(_, stage)| *stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As perf 6.1 wrote it of a server under load, shortened.
    const RECORDED: &str = include_str!("../tests/perf-script.txt");

    #[test]
    fn a_sample_belongs_to_the_stage_of_its_innermost_known_function() {
        let samples = Samples::read(RECORDED.as_bytes()).unwrap();
        let expected = [
            ("socket", 2),
            ("decode", 1),
            ("apply", 1),
            ("encode", 1),
            ("journal", 1),
            ("announce", 1),
            ("hand to store", 1),
            ("store", 1),
            ("runtime", 1),
            ("other", 1),
        ];
        assert_eq!(samples.by_stage, BTreeMap::from(expected));
    }

    #[test]
    fn shares_add_up_to_what_an_update_costs_and_what_nobody_knows_is_named() {
        let table = Samples::read(RECORDED.as_bytes()).unwrap().table(5.5);
        assert!((table.iter().map(|stage| stage.us_per_update).sum::<f64>() - 5.5).abs() < 1e-9);
        assert!((table.iter().map(|stage| stage.per_cent).sum::<f64>() - 100.0).abs() < 1e-9);
        let other = table.iter().find(|stage| stage.name == "other").unwrap();
        assert_eq!(other.mostly.len(), 1);
        assert_eq!(other.mostly[0].0, "protocols::metrics_door::process::append");
    }

    #[test]
    fn every_rule_names_a_stage_that_is_shown() {
        for (rule, stage) in THREADS.iter().chain(FUNCTIONS) {
            assert!(STAGES.contains(stage), "{rule}: {stage}");
        }
    }
}
