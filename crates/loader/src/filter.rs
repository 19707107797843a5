//! What the loader may ask of the kernel once its socket is bound: a list of what it needs, and nothing else.
//!
//! Whatever is not listed answers `ENOSYS`, as if the kernel did not have it: no new socket, no program, no process or
//! thread, no trace, no mount, no module from memory, no descriptor from memory, no new executable pages. The list
//! holds for the rest of the process's life.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::{kernel, kernel_log};

/// The filter could not be made or installed: nothing is served without it.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The list makes no program.
    #[error("make the system call filter")]
    Make(#[source] BackendError),
    /// The kernel refused.
    #[error("install the system call filter")]
    Install(#[source] seccompiler::Error),
}

/// Calls that are allowed with any arguments.
const ALLOWED: &[i64] = &[
    // Files of the store, /proc, /sys and /lib/modules, by descriptor or by path.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_fcntl,
    // The agent's connections.
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_ppoll,
    // What is known of the node.
    libc::SYS_uname,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // Memory, signals and the end, as Rust's and C's libraries use them.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What the C library of this machine uses in place of newer calls.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_poll,
    // The kernel's clock without the shared page.
    libc::SYS_gettimeofday,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// Installs the filter for this thread and all that it could ever start. It also gives up new privileges for good.
pub fn install() -> Result<(), FilterError> {
    let program = program().map_err(FilterError::Make)?;
    seccompiler::apply_filter(&program).map_err(FilterError::Install)
}

fn program() -> Result<BpfProgram, BackendError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules()?, refuse, SeccompAction::Allow, architecture)?.try_into()
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<_, _> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    // Of the log's actions only reading: others clear it or silence the console.
    rules.insert(libc::SYS_syslog, vec![when(0, SeccompCmpOp::Eq, flags(kernel_log::READ_ALL))?]);
    // The work: modules as they are, and nothing by force.
    rules.insert(libc::SYS_finit_module, vec![when(2, SeccompCmpOp::Eq, flags(kernel::LOAD_FLAGS))?]);
    rules.insert(libc::SYS_delete_module, vec![when(1, SeccompCmpOp::Eq, flags(kernel::UNLOAD_FLAGS))?]);
    // Memory, but none that can be executed.
    let not_executable = SeccompCmpOp::MaskedEq(flags(libc::PROT_EXEC));
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![when(2, not_executable.clone(), 0)?]);
    }
    Ok(rules)
}

fn flags(flags: i32) -> u64 {
    u64::from(flags.unsigned_abs())
}

fn when(argument: u8, comparison: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value)?])
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Read as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;
    use std::thread;

    use super::*;

    const NOT_THERE: Option<i32> = Some(libc::ENOSYS);

    /// Runs `check` in a thread of its own: the filter holds for that thread only.
    fn filtered<T: Send + 'static>(check: impl FnOnce() -> T + Send + 'static) -> T {
        let run = move || {
            install().unwrap();
            check()
        };
        thread::spawn(run).join().unwrap()
    }

    fn errno<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    fn rustix_errno<T>(result: rustix::io::Result<T>) -> Option<i32> {
        errno(result.map_err(io::Error::from))
    }

    #[test]
    fn no_socket_can_be_opened_and_no_program_started() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let (connect, bind, pair, program, thread) = filtered(move || {
            (
                errno(UnixStream::connect(&path)),
                errno(UnixListener::bind(path.with_extension("2"))),
                errno(UnixStream::pair()),
                errno(Command::new("/bin/true").spawn()),
                thread::Builder::new().spawn(|| ()).is_err(),
            )
        });
        assert_eq!([connect, bind, pair], [NOT_THERE; 3]);
        assert!(program.is_some() && thread);
    }

    #[test]
    fn no_module_and_no_file_from_memory_and_no_mount() {
        let answers = filtered(|| {
            [
                rustix_errno(rustix::system::init_module(b"", c"")),
                rustix_errno(rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC)),
                rustix_errno(rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::empty())),
                rustix_errno(rustix::process::chroot("/")),
            ]
        });
        assert_eq!(answers, [NOT_THERE; 4]);
    }

    #[test]
    fn the_log_can_be_read() {
        // With or without the privilege, the filter's answer differs from the kernel's.
        let answer = filtered(|| errno(kernel_log::read()));
        assert_ne!(answer, NOT_THERE);
    }

    #[test]
    fn nothing_is_loaded_or_unloaded_by_force() {
        let (ignoring_versions, by_force) = filtered(|| {
            let file = File::open("/proc/self/status").unwrap();
            (
                rustix_errno(rustix::system::finit_module(&file, c"", 1)),
                rustix_errno(rustix::system::delete_module(
                    c"no_such_module",
                    libc::O_NONBLOCK | libc::O_TRUNC,
                )),
            )
        });
        assert_eq!((ignoring_versions, by_force), (NOT_THERE, NOT_THERE));
    }

    #[test]
    fn accepting_and_files_still_work() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut peer = UnixStream::connect(&path).unwrap();
        io::Write::write_all(&mut peer, b"x").unwrap();
        let root = directory.path().to_owned();
        filtered(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
            let store = crate::store::Store::open(&root.join("store")).unwrap();
            let digest = tenon_order::Digest::of(b"abc");
            assert!(store.receive(digest, 3, &mut &b"abc"[..]).unwrap());
            store.verified(digest).unwrap();
            store.link_firmware("a/b", digest).unwrap();
            store.unlink_firmware("a/b").unwrap();
            store.collect(&std::collections::BTreeSet::new()).unwrap();
            assert!(store.verified(digest).is_err());
            File::open("/proc/self/status").unwrap();
        });
    }
}
