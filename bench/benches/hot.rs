//! Measures the time of each hot step on the path of a message: `cargo bench -p peerkit-bench --bench hot`.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use peerkit_bench::pieces::{HotRun, HotStep, Input};

fn main() {
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    let mut criterion = criterion.configure_from_args();
    let mut group = criterion.benchmark_group("hot");
    for step in HotStep::ALL {
        let (mut run, mut input) = (step.start(), Input::default());
        group.throughput(Throughput::Elements(run.messages()));
        group.bench_function(step.name, |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| time(&mut run, &mut input)).sum());
        });
    }
    group.finish();
    criterion.final_summary();
}

/// Returns the time of one run. The time to fill its input does not count.
fn time(run: &mut HotRun, input: &mut Input) -> Duration {
    run.fill(input);
    let started = Instant::now();
    let result = run.run(input);
    let elapsed = started.elapsed();
    result.expect("every message is handled");
    elapsed
}
