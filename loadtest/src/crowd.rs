//! A crowd larger than the sockets for it: a fixed number of updates in flight over all connections together, handed out in
//! bursts as one device's backlog would arrive, and connections that give their place to the next of the users who are away.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::connection::Queue;
use crate::drive::Shared;
use crate::tokens::Tokens;
use crate::workload::{Picker, Random};

/// The users who are not connected now.
pub struct Crowd {
    /// Where they come back to.
    pub server: SocketAddr,
    /// All users.
    pub tokens: Rc<Tokens>,
    /// Who is away, the longest absent first; places in the tokens.
    pub away: RefCell<VecDeque<usize>>,
}

impl Crowd {
    /// The user at `place` goes away, and the one longest absent comes.
    pub fn change(&self, place: usize) -> usize {
        let mut away = self.away.borrow_mut();
        away.push_back(place);
        away.pop_front().unwrap_or(place)
    }
}

/// What is in flight over all connections.
pub struct Pool {
    queues: Vec<Rc<Queue>>,
    picker: Picker,
    random: RefCell<Random>,
    burst: u64,
    spare: Cell<u64>,
}

impl Pool {
    /// Nothing in flight yet; `burst` updates at a time go to one of `queues`.
    pub fn new(queues: Vec<Rc<Queue>>, picker: Picker, seed: u64, burst: usize) -> Self {
        let (random, spare) = (RefCell::new(Random::new(seed ^ 0x5eed)), Cell::new(0));
        Self { queues, picker, random, burst: burst.max(1) as u64, spare }
    }

    /// So many more updates may be in flight: hands out as many bursts as that makes.
    pub fn refill(&self, updates: u64, now_us: u64) {
        let mut spare = self.spare.get() + updates;
        let mut random = self.random.borrow_mut();
        while spare >= self.burst {
            spare -= self.burst;
            self.queues[self.picker.pick(&mut random)].push(now_us, self.burst as usize);
        }
        self.spare.set(spare);
    }
}

/// Lets connections change places, so many per second, until sending ends.
pub async fn change_places(per_s: f64, queues: Vec<Rc<Queue>>, shared: Rc<Shared>) {
    let mut random = Random::new(shared.plan.seed ^ 0x9a55);
    let began = shared.now_us();
    let mut asked = 0_u64;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while shared.sending.get() {
        tick.tick().await;
        let due = ((shared.now_us() - began) as f64 * per_s / 1e6) as u64;
        while asked < due {
            queues[random.below(queues.len() as u64) as usize].leave();
            asked += 1;
        }
    }
}
