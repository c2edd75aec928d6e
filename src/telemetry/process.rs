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

/// Memory of this process that the kernel could not take back, in bytes: what is in files is not counted.
#[cfg(target_os = "linux")]
pub fn memory_used() -> Option<u64> {
    let statm = procfs::process::Process::myself().ok()?.statm().ok()?;
    Some(statm.resident.saturating_sub(statm.shared) * procfs::page_size())
}

/// Memory this process may have, in bytes: the least that one of its control groups allows, or what the machine has.
#[cfg(target_os = "linux")]
pub fn memory_limit() -> Option<u64> {
    use procfs::Current as _;

    let machine = procfs::Meminfo::current().ok().map(|memory| memory.mem_total);
    let groups = procfs::process::Process::myself().ok().and_then(|process| process.cgroups().ok());
    let limits = groups.into_iter().flatten().flat_map(|group| {
        // Version 2 has one hierarchy, and version 1 one for each controller.
        let (root, file) = match group.hierarchy {
            0 => ("/sys/fs/cgroup", "memory.max"),
            _ if group.controllers.iter().any(|controller| controller == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        group_limits(std::path::Path::new(root), &group.pathname, file)
    });
    limits.chain(machine).min()
}

/// What a control group and those above it allow. In a container, a group's path may be the machine's, and not be there.
#[cfg(target_os = "linux")]
fn group_limits(root: &std::path::Path, group: &str, file: &str) -> Vec<u64> {
    let group = std::path::Path::new(group.trim_start_matches('/'));
    let limit = |folder: &std::path::Path| std::fs::read_to_string(root.join(folder).join(file)).ok()?.trim().parse().ok();
    group.ancestors().filter_map(limit).collect()
}

/// Unknown here.
#[cfg(not(target_os = "linux"))]
pub fn memory_used() -> Option<u64> {
    None
}

/// Unknown here.
#[cfg(not(target_os = "linux"))]
pub fn memory_limit() -> Option<u64> {
    None
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
        let used = memory_used().expect("used memory") as f64;
        assert!(used > 1e5 && used < resident * 2.0, "{used} {resident}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_limit_of_a_control_group_is_found() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |group: &str, text: &str| {
            std::fs::create_dir_all(root.path().join(group)).expect("a folder");
            std::fs::write(root.path().join(group).join("memory.max"), text).expect("written");
        };
        write("pods", "1073741824\n");
        write("pods/one", "max\n");
        assert_eq!(group_limits(root.path(), "/pods/one", "memory.max"), [1 << 30]);
        write("pods/one", "536870912\n");
        assert_eq!(group_limits(root.path(), "/pods/one", "memory.max"), [512 << 20, 1 << 30]);
        // Of the machine's path, nothing is there but the container's own root.
        write("", "268435456\n");
        assert_eq!(group_limits(root.path(), "/kubepods/burstable/x", "memory.max"), [256 << 20]);
        assert_eq!(group_limits(root.path(), "/../..", "memory.max"), [256 << 20; 1]);
    }
}
