//! What the rules cost: deciding and applying an ordinary progress update over many users, replaying its record, and merging
//! two rows. Floors against regression, not capacity: nothing here touches a disk or a socket.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use hub::{Command, Context, Hlc, Outcome, Record, SeriesFacts, SetProgress, UserState, apply};
use proto::{Chapter, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, SeriesStatus, UserId, Version};

const NOON_MS: u64 = 1_772_366_400_000;
const SERIES_PER_USER: u64 = 10;
const NODE: NodeId = NodeId(1);

/// Users with ten series and two devices each, and a stream of updates that walks over them.
struct Load {
    users: Vec<UserState>,
    clock: Hlc,
    turn: u64,
}

impl Load {
    fn new(users: u64) -> Self {
        let id = |number: u64| UserId::from_bytes((u128::from(number) << 64 | 1).to_be_bytes());
        let users = (0..users).map(|number| UserState::new(id(number), NODE)).collect();
        let mut load = Self { users, clock: Hlc::default(), turn: 0 };
        let rounds = load.users.len() as u64 * SERIES_PER_USER * 2;
        (0..rounds).for_each(|_| assert!(load.step().is_some(), "an ordinary update is applied"));
        load
    }

    /// Applies the next update: the next user (far away in memory), and for that user the next series, device and chapter.
    fn step(&mut self) -> Option<Record> {
        let count = self.users.len() as u64;
        let (round, user) = (self.turn / count, self.turn.wrapping_mul(7_919) % count);
        self.turn += 1;
        let (series, device) = (round % SERIES_PER_USER, 1 + (round & 1) as u8);
        let hundredths = (round / SERIES_PER_USER + 1) as u32;
        let command = Command::SetProgress(SetProgress {
            device: Some(DeviceId::from_bytes([device; 16])),
            device_seq: Some(DeviceSeq(round / 2 + 1)),
            ..SetProgress::new(MangaId(series as i64 + 1), Chapter::from_hundredths(hundredths).ok()?)
        });
        let mut context = Context {
            wall_ms: NOON_MS + (self.turn >> 12),
            clock: &mut self.clock,
            facts: Some(SeriesFacts { total: None, status: SeriesStatus::Ongoing }),
            strict_total: false,
            token_tag: &|_| [0; 16],
        };
        match apply(&mut self.users[user as usize], &command, &mut context) {
            Outcome::Applied(change) => Some(change.record),
            _ => None,
        }
    }
}

fn set_progress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply/set_progress");
    group.throughput(Throughput::Elements(1));
    // The multiplier that scatters the users is prime and no divisor of these counts, so every user has its turn.
    for users in [1, 1_000, 50_000] {
        let mut load = Load::new(users);
        group.bench_function(BenchmarkId::new("users", users), |bencher| bencher.iter(|| load.step()));
    }
    group.finish();
}

fn replay(criterion: &mut Criterion) {
    let mut load = Load::new(1);
    let records: Vec<Record> = (0..1_000).filter_map(|_| load.step()).collect();
    let mut state = UserState::new(records[0].user(), NODE);
    let mut at = 0;
    criterion.bench_function("apply/replay", |bencher| {
        bencher.iter(|| {
            state.replay(&records[at]);
            at = (at + 1) % records.len();
        });
    });
}

fn merge(criterion: &mut Criterion) {
    let key = |version| MergeKey {
        generation: Version::ZERO,
        chapter: Chapter::whole(5),
        version: Version(version),
        node: NODE,
    };
    let row = |version| hub::ProgressRow { key: key(version), deleted: false, page: None, ahead: false };
    let (older, newer) = (row(1), row(2));
    criterion.bench_function("apply/merge", |bencher| {
        bencher.iter(|| hub::merge::merge(black_box(older), black_box(newer)));
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    set_progress(&mut criterion);
    replay(&mut criterion);
    merge(&mut criterion);
    criterion.final_summary();
}
