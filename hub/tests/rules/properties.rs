//! What holds whatever is asked, in whatever order: versions only grow, merge keys never go back, commands are applied exactly
//! once, replaying is harmless, and nodes that have seen the same changes agree.

use std::collections::HashMap;

use crate::support::*;
use hub::{Command, Outcome, Record, SeriesFacts, SetProgress, Strategy as GoingBack, UserState, UtcOffset};
use proptest::prelude::*;
use proto::{Chapter, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, SeriesStatus, Version};

fn manga() -> impl Strategy<Value = MangaId> {
    (1..4_i64).prop_map(MangaId)
}

fn status() -> impl Strategy<Value = ReadingStatus> {
    proptest::sample::select(ReadingStatus::ALL)
}

prop_compose! {
    fn set_progress()(
        manga in manga(),
        quarters in 0..80_u32,
        page in proptest::option::of(0..30_u32),
        status in proptest::option::weighted(0.2, status()),
        number in proptest::option::of(1..4_u8),
        seq in proptest::option::weighted(0.9, 1..60_u64),
        force in proptest::bool::weighted(0.1),
    ) -> SetProgress {
        SetProgress {
            manga, page: page.map(Page), status, force, conflict_token: None,
            chapter: Chapter::from_hundredths(quarters * 25).unwrap(),
            device: number.map(device), device_seq: seq.map(DeviceSeq),
        }
    }
}

fn command() -> impl Strategy<Value = Command> {
    let strategy = proptest::option::of(proptest::sample::select(&GoingBack::ALL));
    prop_oneof![
        20 => set_progress().prop_map(Command::SetProgress),
        2 => manga().prop_map(|manga| Command::DeleteProgress { manga }),
        2 => (manga(), proptest::option::of(status())).prop_map(|(manga, status)| Command::AddToLibrary { manga, status }),
        2 => (manga(), status()).prop_map(|(manga, status)| Command::SetLibraryStatus { manga, status }),
        2 => manga().prop_map(|manga| Command::RemoveFromLibrary { manga }),
        1 => (1..4_u8).prop_map(|number| Command::RemoveDevice { device: device(number) }),
        2 => (1..4_u8).prop_map(|number| Command::SeeDevice { device: device(number) }),
        2 => (strategy, proptest::option::of(-720..=840_i16)).prop_map(|(strategy, minutes)| Command::SetPreferences {
            strategy, utc_offset: minutes.map(|minutes| UtcOffset::from_minutes(minutes).unwrap()),
        }),
    ]
}

/// A command, and how the wall clock moves before it: usually a little on, sometimes back, sometimes by a day.
fn step() -> impl Strategy<Value = (i64, Command)> {
    let moves = prop_oneof![8 => 0..5_000_i64, 1 => -100_000..0_i64, 1 => Just(90_000_000_i64)];
    (moves, command())
}

fn steps(most: usize) -> impl Strategy<Value = Vec<(i64, Command)>> {
    proptest::collection::vec(step(), 1..most)
}

fn facts() -> impl Strategy<Value = Option<SeriesFacts>> {
    let known = (proptest::option::of(0..20_u32), proptest::sample::select(SeriesStatus::ALL));
    proptest::option::weighted(0.95, known.prop_map(|(total, status)| SeriesFacts { total, status }))
}

fn key_of(state: &UserState, manga: MangaId) -> Option<MergeKey> {
    state.state_of(manga).map(|view| view.key)
}

fn rebuilt(base: &UserState, records: &[Record]) -> UserState {
    let mut state = base.clone();
    records.iter().for_each(|record| state.replay(record));
    state
}

proptest! {
    #![proptest_config(fixed(128))]

    /// `World::run` also checks that nothing but an applied command leaves a trace.
    #[test]
    fn versions_only_grow_and_merge_keys_never_go_back(steps in steps(80), facts in facts()) {
        let mut world = World::new();
        world.facts = facts;
        let mut newest = Version::ZERO;
        for (moved_ms, command) in steps {
            world.wall_ms = world.wall_ms.saturating_add_signed(moved_ms);
            let before: Vec<_> = (1..4).map(|id| key_of(&world.state, MangaId(id))).collect();
            let strategy = world.state.preferences().strategy;
            let outcome = world.run(command);
            if let Outcome::Applied(change) = &outcome {
                prop_assert!(change.record.version() > newest, "every change has a later version");
                newest = change.record.version();
            }
            for (id, before) in (1..4).zip(before) {
                let (manga, after) = (MangaId(id), key_of(&world.state, MangaId(id)));
                prop_assert!(after >= before, "{before:?} -> {after:?}");
                let touched = matches!(&outcome, Outcome::Applied(change) if change.view().is_some_and(|view| view.manga == manga));
                prop_assert_eq!(after != before, touched);
                let lower = after.map(|key| key.chapter) < before.map(|key| key.chapter);
                if let (true, Command::SetProgress(command)) = (lower, &command) {
                    let meant = command.force || command.status == Some(ReadingStatus::ReReading);
                    prop_assert!(meant || strategy == GoingBack::Latest, "went back unasked");
                }
            }
        }
    }

    #[test]
    fn replaying_any_records_in_any_order_and_multiplicity_changes_nothing(
        steps in steps(60), cut in 0..60_usize, picks in proptest::collection::vec(any::<proptest::sample::Index>(), 0..60),
    ) {
        let mut world = World::new();
        let mut base = world.state.clone();
        let mut from = 0;
        for (at, (moved_ms, command)) in steps.into_iter().enumerate() {
            if at == cut {
                // What a store that has drained up to here returns.
                base = UserState::from_rows(world.state.to_rows(), world.state.node());
                from = world.records.len();
            }
            world.wall_ms = world.wall_ms.saturating_add_signed(moved_ms);
            let _ = world.run(command);
        }
        let tail = &world.records[from..];
        prop_assert_eq!(&UserState::from_rows(world.state.to_rows(), world.state.node()), &world.state);
        let once = rebuilt(&base, tail);
        prop_assert_eq!(&once, &world.state, "applying is replaying");
        prop_assert_eq!(&rebuilt(&once, tail), &world.state, "twice");
        prop_assert_eq!(&rebuilt(&once, &world.records), &world.state, "in full, over what is drained already");
        let backwards: Vec<_> = tail.iter().rev().copied().collect();
        prop_assert_eq!(&rebuilt(&base, &backwards), &world.state, "backwards");
        if !world.records.is_empty() {
            let some: Vec<_> = picks.iter().map(|pick| *pick.get(&world.records)).collect();
            prop_assert_eq!(&rebuilt(&world.state, &some), &world.state, "any of them again");
        }
    }

    #[test]
    fn a_command_is_applied_exactly_once_whatever_the_interleaving(
        counts in [1..30_u64, 1..30, 1..30],
        order in proptest::collection::vec((0..3_usize, 0..30_u64, 0..79_u32), 1..300),
        crash_at in 0..300_usize,
    ) {
        // Devices send their numbered commands out of order, again and again; in between the server is restarted once.
        let mut world = World::new();
        world.facts = Some(SeriesFacts { total: None, status: SeriesStatus::Ongoing });
        world.applied(Command::SetPreferences { strategy: Some(GoingBack::Latest), utc_offset: None });
        let mut applied: HashMap<(usize, u64), u32> = HashMap::new();
        for (at, (from, seq, quarters)) in order.into_iter().enumerate() {
            if at == crash_at {
                world.state = rebuilt(&UserState::new(USER, NodeId(1)), &world.records);
            }
            let seq = 1 + seq % counts[from];
            let chapter = Chapter::from_hundredths(quarters * 25).unwrap();
            match world.run(SetProgress { chapter, ..set_from(from as u8, seq, "0") }) {
                Outcome::Applied(_) => *applied.entry((from, seq)).or_default() += 1,
                Outcome::Already(Some(_)) => prop_assert!(applied.contains_key(&(from, seq)), "answered, never applied"),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert!(applied.values().all(|times| *times == 1), "{applied:?}");
        let updates = world.state.history(SERIES).map_or(0, |row| row.updates);
        prop_assert_eq!(updates as usize, applied.len());
    }

    #[test]
    fn retries_are_harmless_under_every_strategy(steps in steps(60)) {
        let mut world = World::new();
        for (moved_ms, command) in steps {
            world.wall_ms = world.wall_ms.saturating_add_signed(moved_ms);
            let numbered = matches!(command, Command::SetProgress(SetProgress { device: Some(_), device_seq: Some(_), .. }));
            if !matches!(world.run(command), Outcome::Applied(_)) || !numbered {
                continue;
            }
            let (state, records) = (world.state.clone(), world.records.len());
            let outcome = world.run(command);
            prop_assert!(matches!(outcome, Outcome::Already(Some(_))), "{outcome:?}");
            prop_assert_eq!((&world.state, world.records.len()), (&state, records));
        }
    }

    #[test]
    fn nodes_that_have_seen_the_same_changes_agree(
        ours in steps(40), theirs in steps(40), ahead_ms in -200_000..200_000_i64, meet_at in 0..40_usize,
    ) {
        let (mut a, mut b) = (World::on(NodeId(1)), World::on(NodeId(2)));
        b.wall_ms = b.wall_ms.saturating_add_signed(ahead_ms);
        let (mut from_a, mut from_b) = (0, 0);
        for at in 0..ours.len().max(theirs.len()) {
            for (world, steps) in [(&mut a, &ours), (&mut b, &theirs)] {
                if let Some((moved_ms, command)) = steps.get(at) {
                    world.wall_ms = world.wall_ms.saturating_add_signed(*moved_ms);
                    let before: Vec<_> = (1..4).map(|id| key_of(&world.state, MangaId(id))).collect();
                    let _ = world.run(*command);
                    prop_assert!((1..4).zip(before).all(|(id, before)| key_of(&world.state, MangaId(id)) >= before));
                }
            }
            if at == meet_at {
                b.records[from_b..].iter().for_each(|record| a.state.replay(record));
                a.records[from_a..].iter().for_each(|record| b.state.replay(record));
                (from_a, from_b) = (a.records.len(), b.records.len());
            }
        }
        let own_history = |world: &World| world.state.history_rows().collect::<Vec<_>>();
        let histories = (own_history(&a), own_history(&b));
        // One hears the other's changes in order, the other backwards.
        b.records.iter().for_each(|record| a.state.replay(record));
        a.records.iter().rev().for_each(|record| b.state.replay(record));
        let shown = |world: &World| {
            let rows = world.state.to_rows();
            (rows.progress, rows.library, rows.preferences, rows.devices)
        };
        prop_assert_eq!(shown(&a), shown(&b));
        prop_assert_eq!((own_history(&a), own_history(&b)), histories, "each node counts its own day; readers add them up");
    }

    #[test]
    fn a_final_total_compares_whole_chapters(hundredths in 0..30_000_u32, total in 1..300_u32) {
        let chapter = Chapter::from_hundredths(hundredths).unwrap();
        let mut world = World::new();
        world.facts = Some(SeriesFacts { total: Some(total), status: SeriesStatus::Completed });
        let within = hundredths / 100 <= total;
        let accepted = matches!(world.run(SetProgress { chapter, ..set("0") }), Outcome::Applied(_));
        prop_assert_eq!(accepted, within);
        world.facts = Some(SeriesFacts { total: Some(total), status: SeriesStatus::Ongoing });
        let change = world.applied(SetProgress { chapter, force: true, ..set("0") });
        prop_assert_eq!(change.ahead(), !within);
        prop_assert_eq!(world.state.progress(SERIES).unwrap().key.chapter, chapter);
    }

    #[test]
    fn going_back_is_decided_by_the_chapter_alone(stored in 0..10_000_u32, proposed in 0..10_000_u32, page in 0..9_u32) {
        for strategy in GoingBack::ALL {
            let mut world = World::new();
            world.facts = Some(SeriesFacts { total: None, status: SeriesStatus::Ongoing });
            world.applied(Command::SetPreferences { strategy: Some(strategy), utc_offset: None });
            let chapter = |hundredths| Chapter::from_hundredths(hundredths).unwrap();
            world.applied(SetProgress { chapter: chapter(stored), page: Some(Page(5)), ..set("0") });
            let command = SetProgress { chapter: chapter(proposed), page: Some(Page(page)), ..set("0") };
            match world.run(command) {
                Outcome::Applied(_) => prop_assert!(proposed >= stored || strategy == GoingBack::Latest),
                Outcome::Conflict(conflict) => {
                    prop_assert!(proposed < stored && strategy != GoingBack::Latest);
                    prop_assert_eq!(conflict.token.is_some(), strategy == GoingBack::Ask);
                    world.applied(match conflict.token {
                        Some(_) => SetProgress { conflict_token: conflict.token, ..command },
                        None => SetProgress { force: true, ..command },
                    });
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
