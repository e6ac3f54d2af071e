//! SIGTERM and SIGINT are read, once each, on whatever thread waits. Alone in its binary: it takes the process's handlers.

#![allow(clippy::unwrap_used)] // A failed step fails the test.

use std::time::Duration;

use runtime::shutdown::{Signal, Signals};

fn raise(signal: &str) {
    let own = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args([signal, &own]).status().unwrap().success());
}

#[test]
fn signals_arrive_in_order_and_waiting_can_end_without_one() {
    let mut signals = Signals::install().unwrap();
    assert_eq!(Signals::install().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(signals.wait(Some(Duration::from_millis(5))).unwrap(), None);
    raise("-TERM");
    assert_eq!(signals.wait(Some(Duration::from_secs(20))).unwrap(), Some(Signal::Terminate));
    raise("-INT");
    assert_eq!(signals.wait(None).unwrap(), Some(Signal::Interrupt));
    assert_eq!(signals.wait(Some(Duration::ZERO)).unwrap(), None);
}
