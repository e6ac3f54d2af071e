//! load harness
fn main() {}
