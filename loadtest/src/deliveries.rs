//! Who must hear of what: every acknowledged update of a device has to reach the user's other devices. How long that takes is
//! counted from when it was sent, and from the first sign that it is durable: its answer, or that somebody heard of it. Which
//! device is behind in the end is known by series, since a device that does not keep up may be sent only the newest state of each.

use std::cell::RefCell;
use std::collections::VecDeque;

use proto::{Chapter, MangaId};

/// One user's devices. A series has one device that writes it; all the others hear of it.
pub struct Audience {
    devices: usize,
    tracks: RefCell<Vec<Track>>,
}

/// One series.
struct Track {
    manga: MangaId,
    writer: usize,
    /// Sent and not yet heard of by everybody, oldest first.
    waiting: VecDeque<News>,
    acknowledged: Chapter,
    /// The newest state that each device has heard of.
    heard: Vec<Chapter>,
}

/// One update on its way.
struct News {
    chapter: Chapter,
    due_us: u64,
    durable_us: Option<u64>,
    /// By how many devices it is still to be heard.
    behind: usize,
}

/// One device heard of one update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Microseconds since the update was due.
    pub since_due_us: u64,
    /// Microseconds since the first sign that it was durable; 0 when this is the first.
    pub since_durable_us: u64,
}

impl Audience {
    /// Nothing has happened yet.
    pub fn new(devices: usize) -> Self {
        Self { devices, tracks: RefCell::default() }
    }

    /// Device number `writer` will write these series, which stand here.
    pub fn writes(&self, writer: usize, series: &[(MangaId, Chapter)]) {
        self.tracks.borrow_mut().extend(series.iter().map(|(manga, chapter)| Track {
            manga: *manga,
            writer,
            waiting: VecDeque::new(),
            acknowledged: *chapter,
            heard: vec![*chapter; self.devices],
        }));
    }

    /// An update of this series, further than all before it, goes out; it was due at `due_us`.
    pub fn sent(&self, manga: MangaId, chapter: Chapter, due_us: u64) {
        self.on(manga, |track| {
            let behind = track.behind(chapter);
            if behind > 0 {
                track.waiting.push_back(News { chapter, due_us, durable_us: None, behind });
            }
        });
    }

    /// Its answer was read at `now_us`: it is durable.
    pub fn acknowledged(&self, manga: MangaId, chapter: Chapter, now_us: u64) {
        self.on(manga, |track| {
            track.acknowledged = track.acknowledged.max(chapter);
            if let Some(news) = track.news(chapter) {
                news.durable_us.get_or_insert(now_us);
            }
        });
    }

    /// A device heard of a state at `now_us`. `None`: it is no news.
    pub fn heard(&self, device: usize, manga: MangaId, chapter: Chapter, now_us: u64) -> Option<Delivery> {
        self.on(manga, |track| {
            let heard = track.heard.get_mut(device)?;
            let before = *heard;
            if before >= chapter {
                return None;
            }
            *heard = chapter;
            let delivery = track.news(chapter).map(|news| Delivery {
                since_due_us: now_us.saturating_sub(news.due_us),
                since_durable_us: now_us.saturating_sub(*news.durable_us.get_or_insert(now_us)),
            });
            // Whoever hears of a state has been told of all before it.
            let first = track.waiting.partition_point(|news| news.chapter <= before);
            for news in track.waiting.range_mut(first..).take_while(|news| news.chapter <= chapter) {
                news.behind = news.behind.saturating_sub(1);
            }
            while track.waiting.pop_front_if(|news| news.behind == 0).is_some() {}
            delivery
        })?
    }

    fn on<T>(&self, manga: MangaId, act: impl FnOnce(&mut Track) -> T) -> Option<T> {
        self.tracks.borrow_mut().iter_mut().find(|track| track.manga == manga).map(act)
    }

    /// Devices that have not heard of the last acknowledged state of a series, added up over the series.
    pub fn missing(&self) -> usize {
        self.tracks.borrow().iter().map(|track| track.behind(track.acknowledged)).sum()
    }
}

impl Track {
    /// What is on its way with this chapter.
    fn news(&mut self, chapter: Chapter) -> Option<&mut News> {
        let at = self.waiting.binary_search_by_key(&chapter, |news| news.chapter).ok()?;
        self.waiting.get_mut(at)
    }

    /// Devices, the writer aside, that have not heard of `chapter` or anything newer.
    fn behind(&self, chapter: Chapter) -> usize {
        let others = self.heard.iter().enumerate().filter(|(device, _)| *device != self.writer);
        others.filter(|(_, heard)| **heard < chapter).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANGA: MangaId = MangaId(7);

    fn chapter(hundredths: u32) -> Chapter {
        Chapter::from_hundredths(hundredths).unwrap()
    }

    fn three_devices(sent: std::ops::RangeInclusive<u32>) -> Audience {
        let audience = Audience::new(3);
        audience.writes(0, &[(MANGA, chapter(5))]);
        sent.for_each(|at| audience.sent(MANGA, chapter(at), u64::from(at)));
        audience
    }

    fn delivery(since_due_us: u64, since_durable_us: u64) -> Option<Delivery> {
        Some(Delivery { since_due_us, since_durable_us })
    }

    #[test]
    fn a_delay_counts_from_the_acknowledgement() {
        let audience = three_devices(6..=6);
        audience.acknowledged(MANGA, chapter(6), 100);
        assert_eq!(audience.missing(), 2);
        assert_eq!(audience.heard(1, MANGA, chapter(6), 130), delivery(124, 30));
        assert_eq!(audience.heard(2, MANGA, chapter(6), 150), delivery(144, 50));
        assert_eq!(audience.heard(2, MANGA, chapter(6), 160), None, "told twice");
        assert_eq!(audience.missing(), 0);
    }

    #[test]
    fn an_announcement_that_is_read_before_the_acknowledgement_is_the_first_sign() {
        let audience = three_devices(6..=6);
        assert_eq!(audience.heard(1, MANGA, chapter(6), 90), delivery(84, 0));
        audience.acknowledged(MANGA, chapter(6), 100);
        assert_eq!(audience.missing(), 1);
        assert_eq!(audience.heard(2, MANGA, chapter(6), 101), delivery(95, 11));
        assert!(audience.tracks.borrow()[0].waiting.is_empty(), "nothing is kept that everybody has heard of");
    }

    #[test]
    fn only_the_newest_state_must_arrive() {
        let audience = three_devices(6..=9);
        (6..=9).for_each(|at| audience.acknowledged(MANGA, chapter(at), u64::from(at) + 1));
        assert_eq!(audience.heard(1, MANGA, chapter(9), 20), delivery(11, 10));
        assert_eq!(audience.heard(2, MANGA, chapter(8), 20), delivery(12, 11));
        assert_eq!(audience.missing(), 1, "the last state has not reached device 2");
        assert_eq!(audience.heard(2, MANGA, chapter(9), 21), delivery(12, 11));
        assert_eq!(audience.missing(), 0);
        assert!(audience.tracks.borrow()[0].waiting.is_empty());
    }

    #[test]
    fn what_was_never_acknowledged_is_not_missed() {
        let audience = three_devices(6..=7);
        audience.acknowledged(MANGA, chapter(6), 10);
        (1..=2).for_each(|device| assert!(audience.heard(device, MANGA, chapter(6), 11).is_some()));
        assert_eq!(audience.missing(), 0, "chapter 7 may have been refused");
    }

    #[test]
    fn a_device_hears_nothing_of_its_own_series_and_of_no_strange_one() {
        let audience = three_devices(6..=6);
        audience.acknowledged(MANGA, chapter(6), 7);
        assert_eq!(audience.missing(), 2, "the writer is not waited for");
        assert_eq!(audience.heard(1, MangaId(8), chapter(6), 8), None);
    }
}
