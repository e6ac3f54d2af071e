//! People who come, read on and leave, at a steady rate: what must not grow is the server's memory, its descriptors and its
//! threads. Growth is told as a slope after the first sixth of the time, in which caches fill.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::shell::Error;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::person::{Visit, device};
use crate::server::Doors;
use crate::timeline::{Moment, Recorder};
use crate::tokens::Tokens;

/// Visits under way at once, at most; one more waits for its turn and is late.
const AT_ONCE_MAX: usize = 4_000;
/// Least time between two readings.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Readings of a run, about.
const READINGS: u32 = 1_800;

/// One run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Visits per second.
    pub rate: f64,
    /// How long.
    #[serde(skip)]
    pub duration: Duration,
    /// Series that a visit moves on in.
    pub series: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Visits that ended well.
    pub visits: u64,
    /// The most that were under way at once: more than before, because something held the machine up, take memory that is kept.
    pub at_once: usize,
    /// Failures by what was said.
    pub errors: BTreeMap<String, u64>,
    /// Growth of resident memory per hour, as a part of it.
    pub rss_growth_per_hour: f64,
    /// Descriptors at the start and at the end of what the slope is taken from.
    pub descriptors: [u64; 2],
    /// What the server said of itself.
    pub timeline: Vec<Moment>,
}

/// Runs it: every user in turn, round and round. Must be called inside a `LocalSet`.
pub async fn run(doors: Doors, pid: u32, tokens: &Tokens, plan: &Plan) -> std::io::Result<Outcome> {
    let every = READ_EVERY.max(plan.duration / READINGS);
    let recorder = Recorder::start(doors.metrics, pid, every)?;
    let series: Rc<[_]> = tokens.series.iter().copied().take(plan.series).collect();
    let errors: Rc<RefCell<BTreeMap<String, u64>>> = Rc::default();
    let (mut visits, mut at_once, mut under_way) = (0_u64, 0, JoinSet::new());
    let began = Instant::now();
    let mut started = 0_u64;
    while began.elapsed() < plan.duration {
        let due = (began.elapsed().as_secs_f64() * plan.rate) as u64;
        while started < due && under_way.len() < AT_ONCE_MAX {
            let seeded = tokens.users[(started % tokens.users.len() as u64) as usize].clone();
            let (series, errors) = (Rc::clone(&series), Rc::clone(&errors));
            under_way.spawn_local(async move {
                let visit = async {
                    let mut visit = Visit::begin(doors.tcp_sync, &seeded, device(&seeded, 0)).await?;
                    visit.read_on(&series).await?;
                    visit.leave().await
                };
                let visited: Result<(), Error> = visit.await;
                if let Err(error) = &visited {
                    *errors.borrow_mut().entry(error.to_string()).or_default() += 1;
                }
                visited.is_ok()
            });
            started += 1;
        }
        at_once = at_once.max(under_way.len());
        while let Some(ended) = under_way.try_join_next() {
            visits += u64::from(ended.unwrap_or(false));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    while let Some(ended) = under_way.join_next().await {
        visits += u64::from(ended.unwrap_or(false));
    }
    let timeline = recorder.finish();
    let settled = &timeline[timeline.len() / 6..];
    let descriptors = [settled.first(), settled.last()].map(|moment| moment.map_or(0, |moment| moment.descriptors));
    let errors = errors.borrow().clone();
    Ok(Outcome { visits, at_once, errors, rss_growth_per_hour: growth_per_hour(settled), descriptors, timeline })
}

/// The slope of a least-squares line through the resident memory, over its middle, per hour.
fn growth_per_hour(moments: &[Moment]) -> f64 {
    let count = moments.len().max(1) as f64;
    let middle = |value: fn(&Moment) -> f64| moments.iter().map(value).sum::<f64>() / count;
    let (at, rss) = (middle(|moment| moment.at_s), middle(|moment| moment.rss_bytes as f64));
    let (mut above, mut below) = (0.0, 0.0);
    for moment in moments {
        above += (moment.at_s - at) * (moment.rss_bytes as f64 - rss);
        below += (moment.at_s - at).powi(2);
    }
    if below == 0.0 || rss == 0.0 { 0.0 } else { above / below * 3_600.0 / rss }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_per_hour_as_a_part_of_the_whole() {
        let moment = |at_s: f64, rss_bytes| Moment { at_s, rss_bytes, ..Moment::default() };
        let flat = [moment(0.0, 1_000), moment(10.0, 1_000), moment(20.0, 1_000)];
        assert_eq!(growth_per_hour(&flat), 0.0);
        let growing = [moment(0.0, 900), moment(1_800.0, 1_000), moment(3_600.0, 1_100)];
        assert!((growth_per_hour(&growing) - 0.2).abs() < 1e-9);
    }
}
