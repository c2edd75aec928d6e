//! What the kernel knows of this process, by the names that Prometheus' own client libraries use. Read when it is asked
//! for; on Linux only.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// Their names, types and help, as in the reference.
pub(super) const FAMILIES: &[(&str, &str, &str)] = &[
    ("process_cpu_seconds_total", "counter", "CPU time of the process, in the kernel and outside, all guests included."),
    ("process_open_fds", "gauge", "Open file descriptors."),
    ("process_max_fds", "gauge", "File descriptors that may be open."),
    ("process_virtual_memory_bytes", "gauge", "Address space: much of it is reserved for guests, and not used."),
    ("process_resident_memory_bytes", "gauge", "Memory that is used."),
    ("process_start_time_seconds", "gauge", "When the process began, since the Unix epoch."),
    ("process_threads", "gauge", "Threads."),
];

/// Values in the order of [`FAMILIES`]; what cannot be read is not there.
#[cfg(target_os = "linux")]
fn values() -> [Option<f64>; FAMILIES.len()] {
    use procfs::CurrentSI as _;
    use procfs::process::{LimitValue, Process};

    let Ok(process) = Process::myself() else { return [None; FAMILIES.len()] };
    let ticks = procfs::ticks_per_second() as f64;
    let stat = process.stat().ok();
    let of_stat = |value: fn(&procfs::process::Stat) -> f64| stat.as_ref().map(value);
    let most = process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
        LimitValue::Value(most) => Some(most as f64),
        LimitValue::Unlimited => None,
    });
    let booted = procfs::KernelStats::current().ok().map(|stats| stats.btime as f64);
    [
        of_stat(|stat| (stat.utime + stat.stime) as f64).map(|time| time / ticks),
        process.fd_count().ok().map(|count| count as f64),
        most,
        of_stat(|stat| stat.vsize as f64),
        of_stat(|stat| (stat.rss * procfs::page_size()) as f64),
        of_stat(|stat| stat.starttime as f64).zip(booted).map(|(begun, booted)| booted + begun / ticks),
        of_stat(|stat| stat.num_threads as f64),
    ]
}

#[cfg(not(target_os = "linux"))]
fn values() -> [Option<f64>; FAMILIES.len()] {
    [None; FAMILIES.len()]
}

/// Reads them for a registry.
pub(super) struct Process(Vec<Desc>);

impl Process {
    pub(super) fn new() -> Self {
        let describe =
            |(name, _, help): &(&str, &str, &str)| Desc::new((*name).to_owned(), (*help).to_owned(), Vec::new(), Default::default());
        Self(FAMILIES.iter().filter_map(|family| describe(family).ok()).collect())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let there = FAMILIES.iter().zip(values()).filter_map(|(family, value)| Some((family, value?)));
        let families = there.filter_map(|((name, kind, help), value)| {
            let opts = Opts::new(*name, *help);
            match *kind {
                "counter" => {
                    let counter = Counter::with_opts(opts).ok()?;
                    counter.inc_by(value);
                    counter.collect().pop()
                }
                _ => {
                    let gauge = Gauge::with_opts(opts).ok()?;
                    gauge.set(value);
                    gauge.collect().pop()
                }
            }
        });
        families.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn all_of_them_are_there_and_plausible() {
        let [cpu, open, most, size, resident, begun, threads] = values().map(|value| value.expect("a value"));
        assert!(cpu >= 0.0 && open >= 3.0 && most > open && size > resident && resident > 1e6 && threads >= 1.0);
        let now = crate::telemetry::clock::unix().as_secs_f64();
        assert!(begun < now + 2.0 && begun > now - 3600.0, "{begun} {now}");
        assert_eq!(Process::new().collect().len(), FAMILIES.len());
        assert_eq!(Process::new().desc().len(), FAMILIES.len());
    }
}
