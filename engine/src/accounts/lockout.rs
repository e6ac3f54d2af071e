//! Lock-outs: how often a sign-in may fail. One shard keeps an account's counts (chosen by hash), so they hold for the whole
//! process without a lock. A try is counted when it begins and forgiven when it succeeds, so parallel tries cannot slip
//! through. An address with a recent good sign-in is never locked out by what others do to the account.

use std::net::IpAddr;

use proto::Code;
use rustc_hash::FxHashMap;

use crate::fault::Fault;

const PER_ADDRESS_WINDOW_MS: u64 = 15 * 60_000;
const PER_ACCOUNT_WINDOW_MS: u64 = 60 * 60_000;
/// How long a good sign-in protects its address.
const GOOD_FOR_MS: u64 = 30 * 24 * 3_600_000;
/// Accounts remembered per shard; past it the longest quiet go.
const ACCOUNTS_MAX: usize = 65_536;
/// Addresses remembered per account.
const ADDRESSES_MAX: usize = 256;

/// What is asked or said about a sign-in.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The account (its id, or the folded name of nobody), hashed.
    pub(crate) account: u64,
    pub(crate) address: IpAddr,
    pub(crate) step: Step,
}

/// Where a sign-in is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// May it be tried? Counts as a failure until it is said to have been none.
    Begin,
    /// The password was right.
    Succeeded,
    /// It was never tried (the hashing queue was full, the store away).
    Withdrawn,
}

#[derive(Default)]
struct Account {
    /// Failures within the hour, oldest first.
    failures_ms: Vec<u64>,
    addresses: Vec<Address>,
    last_ms: u64,
}

struct Address {
    address: IpAddr,
    failures_ms: Vec<u64>,
    good_ms: Option<u64>,
}

/// One shard's counts.
pub(crate) struct LockOuts {
    accounts: FxHashMap<u64, Account>,
    per_address: usize,
    per_account: usize,
    next_sweep_ms: u64,
}

impl LockOuts {
    pub(crate) fn new(per_address: u32, per_account: u32) -> Self {
        let (per_address, per_account) = (per_address.max(1) as usize, per_account.max(1) as usize);
        Self { accounts: FxHashMap::default(), per_address, per_account, next_sweep_ms: 0 }
    }

    /// Takes one step of a sign-in; refuses to begin when there were too many failures.
    pub(crate) fn take(&mut self, attempt: &Attempt, now_ms: u64) -> Result<(), Fault> {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&attempt.account) {
            self.make_room();
        }
        let (per_address, per_account) = (self.per_address, self.per_account);
        let account = self.accounts.entry(attempt.account).or_default();
        account.last_ms = now_ms;
        match attempt.step {
            Step::Begin => account.begin(attempt.address, now_ms, per_address, per_account),
            Step::Succeeded => {
                let address = account.address(attempt.address, now_ms);
                let failures = std::mem::take(&mut address.failures_ms);
                address.good_ms = Some(now_ms);
                account.failures_ms.retain(|at| !failures.contains(at));
                Ok(())
            }
            Step::Withdrawn => {
                account.address(attempt.address, now_ms).failures_ms.pop();
                account.failures_ms.pop();
                Ok(())
            }
        }
    }

    /// Forgets accounts that nothing has to be remembered of. Looks once a minute.
    pub(crate) fn forget(&mut self, now_ms: u64) {
        if now_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now_ms + 60_000;
            self.accounts.retain(|_, account| {
                account.addresses.retain(|address| address.matters(now_ms));
                !account.addresses.is_empty()
            });
        }
    }

    fn make_room(&mut self) {
        let mut ages: Vec<u64> = self.accounts.values().map(|account| account.last_ms).collect();
        let middle = ages.len() / 2;
        let (_, median, _) = ages.select_nth_unstable(middle);
        let median = *median;
        self.accounts.retain(|_, account| account.last_ms > median);
    }
}

impl Account {
    fn begin(&mut self, from: IpAddr, now_ms: u64, per_address: usize, per_account: usize) -> Result<(), Fault> {
        self.failures_ms.retain(|at| now_ms - at < PER_ACCOUNT_WINDOW_MS);
        let (failures, latest_ms) = (self.failures_ms.len(), self.failures_ms.last().copied());
        let address = self.address(from, now_ms);
        address.failures_ms.retain(|at| now_ms - at < PER_ADDRESS_WINDOW_MS);
        if address.failures_ms.len() >= per_address {
            return Err(locked(address.failures_ms[0] + PER_ADDRESS_WINDOW_MS - now_ms));
        }
        let is_trusted = address.good_ms.is_some_and(|at| now_ms - at < GOOD_FOR_MS);
        if failures >= per_account && !is_trusted {
            // Doubles with every further failure: 1 s, 2 s, 4 s, ... up to an hour.
            let delay_ms = 1_000_u64.saturating_mul(1 << (failures - per_account).min(12)).min(PER_ACCOUNT_WINDOW_MS);
            let until_ms = latest_ms.unwrap_or(now_ms) + delay_ms;
            if now_ms < until_ms {
                return Err(locked(until_ms - now_ms));
            }
        }
        address.failures_ms.push(now_ms);
        self.failures_ms.push(now_ms);
        Ok(())
    }

    fn address(&mut self, address: IpAddr, now_ms: u64) -> &mut Address {
        if let Some(at) = self.addresses.iter().position(|known| known.address == address) {
            return &mut self.addresses[at];
        }
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.retain(|known| known.matters(now_ms));
            if self.addresses.len() >= ADDRESSES_MAX {
                // Failures of the account as a whole still count.
                self.addresses.swap_remove(0);
            }
        }
        self.addresses.push(Address { address, failures_ms: Vec::new(), good_ms: None });
        self.addresses.last_mut().expect("one was pushed just now")
    }
}

impl Address {
    fn matters(&self, now_ms: u64) -> bool {
        self.failures_ms.last().is_some_and(|at| now_ms - at < PER_ACCOUNT_WINDOW_MS)
            || self.good_ms.is_some_and(|at| now_ms - at < GOOD_FOR_MS)
    }
}

fn locked(wait_ms: u64) -> Fault {
    metrics::counter!("mangahub_refused_total", "kind" => "login", "reason" => "locked_out").increment(1);
    let wait_s = wait_ms.div_ceil(1_000);
    Fault::new(Code::RateLimited, format!("Too many failed sign-ins; try again in {wait_s} s.")).retry_after_ms(wait_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(account: u64, last: u8, step: Step) -> Attempt {
        Attempt { account, address: IpAddr::from([10, 0, 0, last]), step }
    }

    #[test]
    fn five_failures_lock_an_address_out_and_no_other() {
        let mut lockouts = LockOuts::new(5, 50);
        for at in 0..5 {
            lockouts.take(&attempt(1, 1, Step::Begin), at).unwrap();
        }
        assert_eq!(lockouts.take(&attempt(1, 1, Step::Begin), 10).unwrap_err().code, Code::RateLimited);
        assert!(lockouts.take(&attempt(1, 2, Step::Begin), 10).is_ok());
        assert!(lockouts.take(&attempt(2, 1, Step::Begin), 10).is_ok());
        assert!(lockouts.take(&attempt(1, 1, Step::Begin), PER_ADDRESS_WINDOW_MS).is_ok());
    }

    #[test]
    fn success_and_withdrawal_are_not_failures() {
        let mut lockouts = LockOuts::new(2, 50);
        for at in 0..20 {
            lockouts.take(&attempt(1, 1, Step::Begin), at).unwrap();
            let step = if at % 2 == 0 { Step::Succeeded } else { Step::Withdrawn };
            lockouts.take(&attempt(1, 1, step), at).unwrap();
        }
    }

    #[test]
    fn many_addresses_meet_a_growing_delay_but_a_trusted_one_does_not() {
        let mut lockouts = LockOuts::new(5, 50);
        lockouts.take(&attempt(1, 200, Step::Begin), 0).unwrap();
        lockouts.take(&attempt(1, 200, Step::Succeeded), 0).unwrap();
        for at in 0..50_u8 {
            lockouts.take(&attempt(1, at, Step::Begin), 1_000).unwrap();
        }
        let waits: Vec<u64> = (0..3_u8)
            .map(|at| {
                let now_ms = 1_000 + 100_000 * u64::from(at);
                let refused = lockouts.take(&attempt(1, 100 + at, Step::Begin), now_ms);
                let wait = refused.err().and_then(|fault| fault.wait_ms()).unwrap_or(0);
                let _ = lockouts.take(&attempt(1, 110 + at, Step::Begin), now_ms + wait);
                wait
            })
            .collect();
        assert_eq!(waits[0], 1_000);
        assert!(lockouts.take(&attempt(1, 200, Step::Begin), 300_000).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let mut lockouts = LockOuts::new(5, 50);
        for account in 0..(ACCOUNTS_MAX as u64 + 10) {
            lockouts.take(&attempt(account, 1, Step::Begin), account).unwrap();
        }
        assert!(lockouts.accounts.len() <= ACCOUNTS_MAX);
        lockouts.forget(PER_ACCOUNT_WINDOW_MS * 30);
        assert!(lockouts.accounts.is_empty());
    }
}
