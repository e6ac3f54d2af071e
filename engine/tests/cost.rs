//! What one pipelined durable update costs, by thread. Not a check: run it by hand, in release, with `--ignored --nocapture`.

mod common;

use common::{Server, attach, chapter, config};
use engine::SetProgress;
use engine::boot::Seams;
use std::collections::BTreeMap;

const UPDATES: u64 = 1_000_000;
const WINDOW: u32 = 256;

#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_a_pipelined_update() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut wide = config(folder.path(), 1);
    wide.limits.journal_segment_bytes = 64 << 20;
    wide.limits.frame_rate_per_s = 1_000_000_000;
    wide.limits.frame_burst = 1_000_000_000;
    let server = Server::start(wide, Seams::default());
    let (tokens, series) = server.seed(64, 10);
    let before = cpu_ms();
    let started = std::time::Instant::now();
    let done: Vec<_> = (tokens.into_iter())
        .map(|token| {
            let series = series.clone();
            server.begin(0, move |engine| async move {
                let attachment = attach(&engine, &token).await;
                let (mut seq, mut out, mut applied) = (0_u64, Vec::new(), 0_u64);
                while seq < UPDATES / 64 || attachment.unanswered() > 0 {
                    while seq < UPDATES / 64 && attachment.unanswered() < WINDOW {
                        let manga = series[seq as usize % series.len()];
                        let number = chapter((seq / 10) as u32 % 9_000);
                        let update = SetProgress { force: true, ..SetProgress::to(manga, number) };
                        attachment.submit(seq, update).expect("taken");
                        seq += 1;
                    }
                    attachment.next(&mut out).await;
                    for out in out.drain(..) {
                        match out {
                            engine::Outgoing::Ack { acked, .. } => applied += u64::from(!acked.already),
                            other => panic!("{other:?}"),
                        }
                    }
                }
                applied
            })
        })
        .collect();
    let applied: u64 = done.into_iter().map(|done| done.recv().expect("done")).sum();
    assert_eq!(applied, UPDATES / 64 * 64);
    let took = started.elapsed();
    println!("{UPDATES} updates in {took:?}: {:.0}/s", UPDATES as f64 / took.as_secs_f64());
    for (name, ms) in cpu_ms() {
        let ms = ms - before.get(&name).copied().unwrap_or(0);
        println!("{name:>16} {:.3} us per update", ms as f64 * 1_000.0 / UPDATES as f64);
    }
}

/// CPU per thread in milliseconds (proc(5), fields 14 and 15 of stat, in ticks of 10 ms).
fn cpu_ms() -> BTreeMap<String, u64> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").expect("proc").flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let (name, rest) = (stat.split(['(', ')']).nth(1), stat.rsplit(") ").next());
        let (Some(name), Some(rest)) = (name, rest) else { continue };
        let ticks: u64 = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        *threads.entry(name.to_owned()).or_default() += ticks * 10;
    }
    threads
}
