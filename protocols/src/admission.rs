//! Who may come in: connections are counted for the process and per address before a byte is read, and every one turned
//! away is counted by door and reason. It takes no lock and its memory is fixed, whoever knocks; it may refuse an address
//! early when many share its cells, it never admits more than the limit (and a few who read the metrics).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use engine::Fault;
use proto::Code;

/// Which door a connection came through: the label of its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// TCP sync.
    TcpSync,
    /// HTTP.
    Http,
    /// Metrics.
    Metrics,
}

impl Door {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::TcpSync, Self::Http, Self::Metrics];

    /// As counters and log lines name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Door::TcpSync => "tcp_sync",
            Door::Http => "http",
            Door::Metrics => "metrics",
        }
    }
}

/// Why a connection was turned away or ended by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The process holds as many connections as it may.
    Capacity,
    /// The address holds as many connections as it may.
    PerAddress,
    /// Its owner's shard could not take it.
    Move,
    /// It did not say who it is in time.
    GreetingTimeout,
    /// Nothing was heard from it.
    Idle,
    /// It spoke TLS and there is no certificate, or the handshake failed.
    Tls,
    /// It came in clear from beyond loopback although TLS is configured.
    Plain,
    /// It spoke out of turn or out of step.
    Protocol,
    /// It had more unanswered than its window allows.
    Window,
    /// The token was wrong.
    Auth,
    /// It did not read what was sent.
    SlowConsumer,
    /// Its grant was revoked.
    Revoked,
    /// Its task panicked.
    Panic,
}

impl Refusal {
    /// All of them.
    pub(crate) const ALL: [Self; 13] = [
        Self::Capacity,
        Self::PerAddress,
        Self::Move,
        Self::GreetingTimeout,
        Self::Idle,
        Self::Tls,
        Self::Plain,
        Self::Protocol,
        Self::Window,
        Self::Auth,
        Self::SlowConsumer,
        Self::Revoked,
        Self::Panic,
    ];

    /// As counters name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Capacity => "capacity",
            Refusal::PerAddress => "per_address",
            Refusal::Move => "move",
            Refusal::GreetingTimeout => "greeting_timeout",
            Refusal::Idle => "idle",
            Refusal::Tls => "tls",
            Refusal::Plain => "plain",
            Refusal::Protocol => "protocol",
            Refusal::Window => "window",
            Refusal::Auth => "auth",
            Refusal::SlowConsumer => "slow_consumer",
            Refusal::Revoked => "revoked",
            Refusal::Panic => "panic",
        }
    }
}

/// Counts one connection turned away or ended by us.
pub fn count_refusal(door: Door, reason: Refusal) {
    metrics::counter!("mangahub_connections_refused_total", "door" => door.as_str(), "reason" => reason.as_str())
        .increment(1);
}

/// What a connection without a place is told.
pub(crate) fn no_place_fault() -> Fault {
    let fault = Fault::new(Code::Capacity, "the server holds as many connections as it may; try again later");
    fault.retry_after_ms(5_000)
}

/// Places beyond both limits for whoever reads the metrics: that a server is full must show.
const METRICS_PLACES: u32 = 8;

const ROWS: usize = 4;
const CELLS: usize = 16_384;

/// The counts of the whole process. Per address it is a count-min sketch (Cormode and Muthukrishnan 2005): an address's
/// count is the smallest of its four cells, which is never below the truth; 256 KiB whatever the number of addresses.
pub struct Admission {
    open: AtomicU32,
    open_max: u32,
    per_address_max: u32,
    rows: Box<[[AtomicU32; CELLS]; ROWS]>,
    hashers: [RandomState; ROWS],
}

impl Admission {
    /// Empty, with its limits.
    pub fn new(open_max: u32, per_address_max: u32) -> Self {
        let row = || -> Box<[AtomicU32; CELLS]> {
            let cells: Box<[AtomicU32]> = (0..CELLS).map(|_| AtomicU32::new(0)).collect();
            cells.try_into().expect("a row was made with exactly CELLS cells")
        };
        let rows: Box<[[AtomicU32; CELLS]]> = (0..ROWS).map(|_| *row()).collect();
        let rows = rows.try_into().expect("the sketch was made with exactly ROWS rows");
        Self { open: AtomicU32::new(0), open_max, per_address_max, rows, hashers: Default::default() }
    }

    /// Open connections now.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// The most there may be.
    pub fn open_max(&self) -> u32 {
        self.open_max
    }

    /// Lets a connection in, or says why not (and counts it). The pass gives the places back when it is dropped.
    pub fn admit(self: &Arc<Self>, door: Door, address: IpAddr) -> Result<Pass, Refusal> {
        let refused = |reason| {
            count_refusal(door, reason);
            Err(reason)
        };
        let beyond = if door == Door::Metrics { METRICS_PLACES } else { 0 };
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.open_max.saturating_add(beyond) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return refused(Refusal::Capacity);
        }
        let cells = self.cells_of(address);
        let mut smallest = u32::MAX;
        for (row, cell) in self.rows.iter().zip(cells) {
            smallest = smallest.min(row[usize::from(cell)].fetch_add(1, Ordering::Relaxed));
        }
        let pass = Pass { admission: Arc::clone(self), cells };
        // Dropping the pass on refusal takes the counts back.
        if smallest >= self.per_address_max.saturating_add(beyond) { refused(Refusal::PerAddress) } else { Ok(pass) }
    }

    fn cells_of(&self, address: IpAddr) -> [u16; ROWS] {
        let key = match address {
            IpAddr::V4(four) => u64::from(u32::from(four)),
            IpAddr::V6(six) => match six.to_ipv4_mapped() {
                Some(four) => u64::from(u32::from(four)),
                // One customer commonly holds a whole /64, so that is what counts as an address.
                None => (u128::from(six) >> 64) as u64 | 1 << 63,
            },
        };
        std::array::from_fn(|row| (self.hashers[row].hash_one(key) % CELLS as u64) as u16)
    }
}

/// A place inside. It moves with its connection, between shards too.
pub struct Pass {
    admission: Arc<Admission>,
    /// Small, because every connection keeps them.
    cells: [u16; ROWS],
}

impl Drop for Pass {
    fn drop(&mut self) {
        for (row, cell) in self.admission.rows.iter().zip(self.cells) {
            row[usize::from(cell)].fetch_sub(1, Ordering::Relaxed);
        }
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn an_address_gets_its_limit_and_its_places_back() {
        let admission = Arc::new(Admission::new(100, 3));
        let mut passes: Vec<Pass> =
            (0..3).map(|_| admission.admit(Door::Http, address(1)).unwrap_or_else(|_| panic!("within"))).collect();
        assert_eq!(admission.admit(Door::Http, address(1)).err(), Some(Refusal::PerAddress));
        assert!(admission.admit(Door::Http, address(2)).is_ok());
        passes.pop();
        assert!(admission.admit(Door::TcpSync, address(1)).is_ok());
        drop(passes);
        assert_eq!(admission.open(), 0);
    }

    #[test]
    fn a_full_server_can_still_be_looked_at() {
        for admission in [Admission::new(1, 100), Admission::new(100, 1)] {
            let admission = Arc::new(admission);
            let _held = admission.admit(Door::Http, address(1));
            assert!(admission.admit(Door::Http, address(1)).is_err());
            let readers: Vec<_> = (0..METRICS_PLACES).map(|_| admission.admit(Door::Metrics, address(1))).collect();
            assert!(readers.iter().all(Result::is_ok));
            assert!(admission.admit(Door::Metrics, address(1)).is_err());
        }
    }

    #[test]
    fn the_process_has_a_limit_of_its_own() {
        let admission = Arc::new(Admission::new(2, 100));
        let held = [admission.admit(Door::Http, address(1)), admission.admit(Door::Http, address(2))];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(admission.admit(Door::Http, address(3)).err(), Some(Refusal::Capacity));
    }

    #[test]
    fn a_customer_of_ipv6_is_one_address() {
        let admission = Arc::new(Admission::new(100, 1));
        let held = admission.admit(Door::Http, "2001:db8::1".parse().unwrap());
        assert!(held.is_ok());
        assert_eq!(admission.admit(Door::Http, "2001:db8::2".parse().unwrap()).err(), Some(Refusal::PerAddress));
        assert!(admission.admit(Door::Http, "2001:db8:0:1::1".parse().unwrap()).is_ok());
    }
}
