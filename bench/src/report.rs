//! The table of medians, with each system's ratio to the reference in the same run.

use std::fmt::Write;

use crate::pair::{Figures, Job, Measurement, System, Workload};

/// A line for each job, in the order in which they were measured first.
pub(crate) fn table(measured: &[Measurement], systems: &[System]) -> String {
    let mut out = String::new();
    for workload in [Workload::Throughput, Workload::Latency] {
        let of_workload: Vec<_> = measured.iter().filter(|m| m.job.workload == workload).collect();
        if of_workload.is_empty() {
            continue;
        }
        let heading = match workload {
            Workload::Throughput => "messages/s |     MB/s |  CPU s, both | of raw TLS",
            Workload::Latency => "    p50 us |   p99 us |    p99.9 us  | of raw TLS (p50)",
        };
        let _ = writeln!(out, "\n{:<8} | {:>7} | {heading}", "system", "bytes");
        let mut sizes: Vec<_> = of_workload.iter().map(|m| m.job.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            for system in systems {
                line(&mut out, measured, Job { system: *system, workload, size });
            }
        }
    }
    out
}

fn line(out: &mut String, measured: &[Measurement], job: Job) {
    let median = |system, of: fn(&Measurement) -> f64| {
        let same = |m: &&Measurement| {
            (m.job.system, m.job.workload, m.job.size) == (system, job.workload, job.size)
        };
        let mut values: Vec<_> = measured.iter().filter(same).map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let ratio = median(job.system, first) / median(System::RawTls, first);
    let [a, b, c] = [first, second, third].map(|of| median(job.system, of));
    let (name, size) = (job.system.name(), job.size);
    let _ = match job.workload {
        Workload::Throughput => {
            writeln!(
                out,
                "{name:<8} | {size:>7} | {a:>10.0} | {b:>8.1} | {c:>12.2} | {ratio:>10.2}"
            )
        }
        Workload::Latency => {
            writeln!(
                out,
                "{name:<8} | {size:>7} | {a:>10.1} | {b:>8.1} | {c:>12.1} | {ratio:>10.2}"
            )
        }
    };
}

fn first(measurement: &Measurement) -> f64 {
    match measurement.figures {
        Figures::Throughput { messages_per_s, .. } => messages_per_s,
        Figures::Latency { p50_us, .. } => p50_us,
    }
}

fn second(measurement: &Measurement) -> f64 {
    match measurement.figures {
        Figures::Throughput { mb_per_s, .. } => mb_per_s,
        Figures::Latency { p99_us, .. } => p99_us,
    }
}

fn third(measurement: &Measurement) -> f64 {
    match measurement.figures {
        Figures::Throughput { .. } => measurement.cpu.iter().sum(),
        Figures::Latency { p999_us, .. } => p999_us,
    }
}
