//! Which commands have had no answer yet. Answers come in order as a rule, so a queue is enough: an early one in the middle is
//! marked and leaves when those before it have left. Costs a few nanoseconds per command and 16 bytes per unanswered one.

use std::collections::VecDeque;

/// The unanswered commands of one connection, by ascending header.seq.
#[derive(Debug, Default)]
pub struct InFlight {
    queue: VecDeque<Sent>,
    answered_early: usize,
}

#[derive(Debug)]
struct Sent {
    seq: u64,
    answered: bool,
}

impl InFlight {
    /// Adds a command.
    ///
    /// # Panics
    /// When its seq is not larger than those before it.
    pub fn sent(&mut self, seq: u64) {
        assert!(self.queue.back().is_none_or(|last| last.seq < seq), "header.seq only grows");
        self.queue.push_back(Sent { seq, answered: false });
    }

    /// How many are unanswered.
    pub fn len(&self) -> usize {
        self.queue.len() - self.answered_early
    }

    /// Whether every command has been answered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out exactly this command; false when it is not among the unanswered ones.
    pub fn answer(&mut self, seq: u64) -> bool {
        if self.queue.front().is_some_and(|first| first.seq == seq) {
            self.queue.pop_front();
            self.drop_answered();
            return true;
        }
        let found = self.queue.binary_search_by_key(&seq, |sent| sent.seq).ok().map(|at| &mut self.queue[at]);
        match found {
            Some(sent) if !sent.answered => {
                sent.answered = true;
                self.answered_early += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes out the oldest unanswered command that is not newer than `seq`: call it until it gives none, for a cumulative answer.
    pub fn answer_oldest(&mut self, up_to_seq: u64) -> Option<u64> {
        let first = self.queue.front().filter(|first| first.seq <= up_to_seq)?.seq;
        self.queue.pop_front();
        self.drop_answered();
        Some(first)
    }

    /// Keeps the front unanswered, so that the queue is never longer than the window allows for.
    fn drop_answered(&mut self) {
        while self.queue.front().is_some_and(|first| first.answered) {
            self.queue.pop_front();
            self.answered_early -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five() -> InFlight {
        let mut flight = InFlight::default();
        [1, 2, 4, 7, 8].into_iter().for_each(|seq| flight.sent(seq));
        flight
    }

    #[test]
    fn a_cumulative_answer_takes_every_older_command_once() {
        let mut flight = five();
        assert!(flight.answer(4));
        let taken: Vec<u64> = std::iter::from_fn(|| flight.answer_oldest(7)).collect();
        assert_eq!(taken, [1, 2, 7]);
        assert_eq!(flight.len(), 1);
        assert_eq!(flight.answer_oldest(8), Some(8));
        assert!(flight.is_empty());
    }

    #[test]
    fn an_answer_counts_once_and_only_for_what_was_sent() {
        let mut flight = five();
        assert!(flight.answer(2) && !flight.answer(2));
        assert!(!flight.answer(3) && !flight.answer(9));
        assert!(flight.answer(1) && !flight.answer(1));
        assert_eq!(flight.len(), 3);
    }
}
