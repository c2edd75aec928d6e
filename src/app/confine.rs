//! What this process never does, it gives up: should a program break out of its sandbox, it can start no other program, look into none, and
//! ask for nothing of the kernel that only administrators do.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// System calls that are answered EPERM from now on. Everything else is as before: a list of what may be done would have to
/// know what every library and every kernel does.
const GIVEN_UP: &[c_long] = &[
    // Other programs, and other processes' memory.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    // Namespaces and mounts.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    // Of the kernel, what only its administrators need, or what is known for its holes.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
];

/// Why it cannot be given up: the kernel, or what stands between it and this process, has no seccomp.
#[derive(Debug, thiserror::Error)]
#[error("system calls cannot be given up: {0}")]
pub struct Unconfined(#[from] seccompiler::Error);

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    // Without conditions on its arguments, each always matches.
    let rules: BTreeMap<i64, _> = GIVEN_UP.iter().map(|number| (*number, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()), architecture)?;
    Ok(filter.try_into()?)
}

/// For all threads of this process and for good. With it go new privileges (`no_new_privs`).
pub fn confine() -> Result<(), Unconfined> {
    Ok(seccompiler::apply_filter_all_threads(&filter()?)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A thread that gives them up, and what it starts, can start nothing; others can.
    #[test]
    fn nothing_can_be_started() {
        let started = || Command::new("/bin/true").status().map_err(|error| error.kind());
        assert!(started().is_ok_and(|status| status.success()));
        let given_up = std::thread::spawn(move || {
            seccompiler::apply_filter(&filter().expect("a filter")).expect("applies");
            // What a server does goes on.
            std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
            std::fs::read("/proc/self/status").expect("reads");
            started()
        });
        assert_eq!(given_up.join().expect("no panic"), Err(std::io::ErrorKind::PermissionDenied));
        assert!(started().is_ok_and(|status| status.success()));
    }
}
