//! Times the hot steps of a message's path, each alone: `cargo bench -p peerkit-bench --bench hot`.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use peerkit_bench::pieces::{HotRun, HotStep, Input};

fn main() {
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    let mut criterion = criterion.configure_from_args();
    let mut group = criterion.benchmark_group("hot");
    for piece in HotStep::ALL {
        let (mut work, mut input) = (piece.start(), Input::default());
        group.throughput(Throughput::Elements(work.messages()));
        group.bench_function(piece.name, |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| time(&mut work, &mut input)).sum());
        });
    }
    group.finish();
    criterion.final_summary();
}

/// Returns the time of one run, without the time to fill its input.
fn time(work: &mut HotRun, input: &mut Input) -> Duration {
    work.fill(input);
    let started = Instant::now();
    let done = work.run(input);
    let elapsed = started.elapsed();
    done.expect("every message is handled");
    elapsed
}
