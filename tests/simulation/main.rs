//! Agents, an invented Lease store, and every fault at once, in invented time.
//!
//! The agents run the real elector, the real health tracker, the real `desired` and the real `plan`; the store, the
//! network, the kernel and the segment are invented. A run is a function of its seed, which also chooses the cluster: two
//! hosts may have one node name, the API server of one may never answer, and one may have replaced the Go program.
//! `world` has what must hold in every run, and `faults` the table of faults.
//!
//! `SIM_SEEDS` sets how many seeds are run (3,000 by default), `SIM_SEED` runs a single one and prints its trace.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod agent;
mod faults;
mod kernel;
mod store;
mod world;

use std::time::Duration;

use world::World;

const LEASE: Duration = Duration::from_secs(5);
const RENEW: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_millis(800);

/// Times of the simulation are in microseconds.
const SECOND: u64 = 1_000_000;
const FAULTS_END: u64 = 60 * SECOND;
const END: u64 = 90 * SECOND;
/// How long after the faults a holder may be missing: a lease duration, and the retries around it.
const SETTLE: u64 = 7 * SECOND;
/// How long a host may hold the address whose API server never answers, while another one does.
const NEVER_ANSWERED: u64 = 10 * SECOND;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn simulate(seed: u64, verbose: bool) -> Result<(), String> {
    let mut world = World::new(seed, verbose);
    world.run().map_err(|why| format!("seed {seed}, at {:.3} s: {why}", world.now as f64 / 1e6))
}

#[test]
fn at_no_moment_two_holders_and_afterwards_one() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        simulate(seed.parse().unwrap(), true).unwrap();
        return;
    }
    let seeds = std::env::var("SIM_SEEDS").map_or(3_000, |seeds| seeds.parse().unwrap());
    let failures: Vec<String> = (0..seeds).filter_map(|seed| simulate(seed, false).err()).collect();
    for failure in failures.iter().take(10) {
        println!("{failure}");
    }
    let replay = "cargo xtask sim --seed";
    assert!(failures.is_empty(), "{} of {seeds} seeds fail; print a trace with: {replay} N", failures.len());
    println!("{seeds} seeds");
}
