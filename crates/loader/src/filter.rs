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

    /// A system call with these arguments; one that is not there has changed nothing.
    #[expect(
        unsafe_code,
        reason = "nothing else makes calls that no library wraps; whatever they point to is null"
    )]
    fn call(number: i64, arguments: [i64; 5]) -> Option<i32> {
        let [first, second, third, fourth, fifth] = arguments;
        // SAFETY: no argument is a pointer to anything: a call that got through would fail for that.
        let answer = unsafe { libc::syscall(number, first, second, third, fourth, fifth) };
        (answer < 0).then(|| io::Error::last_os_error().raw_os_error()).flatten()
    }

    /// What a taken-over loader would want: to reach somebody, to run something, to look into or change another process, to
    /// get back what it gave up, to open what it was not given. Arguments are such that a call that got through would fail.
    #[rustfmt::skip]
    const WANTED: &[(&str, i64, [i64; 5])] = &[
        ("an IPv4 socket", libc::SYS_socket, [libc::AF_INET as i64, libc::SOCK_STREAM as i64, 0, 0, 0]),
        ("an IPv4 datagram socket", libc::SYS_socket, [libc::AF_INET as i64, libc::SOCK_DGRAM as i64, 0, 0, 0]),
        ("an IPv6 socket", libc::SYS_socket, [libc::AF_INET6 as i64, libc::SOCK_STREAM as i64, 0, 0, 0]),
        ("a raw socket", libc::SYS_socket, [libc::AF_INET as i64, libc::SOCK_RAW as i64, 1, 0, 0]),
        ("a Unix socket", libc::SYS_socket, [libc::AF_UNIX as i64, libc::SOCK_STREAM as i64, 0, 0, 0]),
        ("a netlink socket", libc::SYS_socket, [libc::AF_NETLINK as i64, libc::SOCK_RAW as i64, 0, 0, 0]),
        ("a packet socket", libc::SYS_socket, [libc::AF_PACKET as i64, libc::SOCK_RAW as i64, 768, 0, 0]),
        ("a virtual machine's socket", libc::SYS_socket, [libc::AF_VSOCK as i64, libc::SOCK_STREAM as i64, 0, 0, 0]),
        ("a pair of sockets", libc::SYS_socketpair, [1, 1, 0, 0, 0]),
        ("a connection", libc::SYS_connect, [-1, 0, 0, 0, 0]),
        ("an address", libc::SYS_bind, [-1, 0, 0, 0, 0]),
        ("listening", libc::SYS_listen, [-1, 1, 0, 0, 0]),
        ("descriptors over a socket", libc::SYS_sendmsg, [-1, 0, 0, 0, 0]),
        ("descriptors from a socket", libc::SYS_recvmsg, [-1, 0, 0, 0, 0]),
        ("many messages", libc::SYS_sendmmsg, [-1, 0, 0, 0, 0]),
        ("a program", libc::SYS_execve, [0; 5]),
        ("a program by descriptor", libc::SYS_execveat, [-1, 0, 0, 0, 0]),
        ("a process", libc::SYS_clone3, [0; 5]),
        ("namespaces", libc::SYS_unshare, [-1, 0, 0, 0, 0]),
        ("another's namespaces", libc::SYS_setns, [-1, 0, 0, 0, 0]),
        ("a trace", libc::SYS_ptrace, [libc::PTRACE_ATTACH as i64, -1, 0, 0, 0]),
        ("another's memory", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
        ("changing another's memory", libc::SYS_process_vm_writev, [1, 0, 0, 0, 0]),
        ("another's descriptors", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
        ("a handle of a process", libc::SYS_pidfd_open, [-1, 0, 0, 0, 0]),
        ("a signal to another", libc::SYS_kill, [1, 0, 0, 0, 0]),
        ("a mount", libc::SYS_mount, [0; 5]),
        ("no mount", libc::SYS_umount2, [0; 5]),
        ("a mount of the new kind", libc::SYS_fsopen, [0; 5]),
        ("a moved mount", libc::SYS_move_mount, [-1, 0, -1, 0, 0]),
        ("a copied mount", libc::SYS_open_tree, [-1, 0, 0, 0, 0]),
        ("another root", libc::SYS_pivot_root, [0; 5]),
        ("a changed root", libc::SYS_chroot, [0; 5]),
        ("a file by its handle", libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
        ("opening by rules", libc::SYS_openat2, [-1, 0, 0, 0, 0]),
        ("a device", libc::SYS_mknodat, [-1, 0, 0, 0, 0]),
        ("a symbolic link", libc::SYS_symlinkat, [0, -1, 0, 0, 0]),
        ("another owner", libc::SYS_fchownat, [-1, 0, 0, 0, 0]),
        ("an extended attribute", libc::SYS_setxattr, [0; 5]),
        ("a program for the kernel", libc::SYS_bpf, [-1, 0, 0, 0, 0]),
        ("a look at the machine", libc::SYS_perf_event_open, [0, 0, -1, -1, 0]),
        ("calls by a ring", libc::SYS_io_uring_setup, [0; 5]),
        ("page faults", libc::SYS_userfaultfd, [-1, 0, 0, 0, 0]),
        ("watching all files", libc::SYS_fanotify_init, [-1, 0, 0, 0, 0]),
        ("a module from memory", libc::SYS_init_module, [0; 5]),
        ("a module by force", libc::SYS_finit_module, [-1, 0, 1, 0, 0]),
        ("a module of another version", libc::SYS_finit_module, [-1, 0, 2, 0, 0]),
        ("a packed module", libc::SYS_finit_module, [-1, 0, 4, 0, 0]),
        ("no module, by force", libc::SYS_delete_module, [0, (libc::O_NONBLOCK | libc::O_TRUNC) as i64, 0, 0, 0]),
        ("no module, whatever it takes", libc::SYS_delete_module, [0; 5]),
        ("another kernel", libc::SYS_kexec_file_load, [-1, -1, 0, 0, 0]),
        ("a restart", libc::SYS_reboot, [0; 5]),
        ("a file of memory", libc::SYS_memfd_create, [0; 5]),
        ("executable memory", libc::SYS_mmap, [0, 4096, (libc::PROT_READ | libc::PROT_EXEC) as i64, 0, -1]),
        ("memory made executable", libc::SYS_mprotect, [0, 4096, (libc::PROT_READ | libc::PROT_EXEC) as i64, 0, 0]),
        ("shared memory", libc::SYS_shmget, [0, 0, 0, 0, 0]),
        ("a key", libc::SYS_add_key, [0; 5]),
        ("keys", libc::SYS_keyctl, [-1, 0, 0, 0, 0]),
        ("another user", libc::SYS_setuid, [-1, 0, 0, 0, 0]),
        ("capabilities", libc::SYS_capset, [0; 5]),
        ("a process's settings", libc::SYS_prctl, [-1, 0, 0, 0, 0]),
        ("another filter", libc::SYS_seccomp, [-1, 0, 0, 0, 0]),
        ("a device's commands", libc::SYS_ioctl, [-1, 0, 0, 0, 0]),
        ("another clock", libc::SYS_clock_settime, [-1, 0, 0, 0, 0]),
        ("another name of the node", libc::SYS_sethostname, [0, -1, 0, 0, 0]),
        ("an empty log", libc::SYS_syslog, [5, 0, 0, 0, 0]),
        ("a silent console", libc::SYS_syslog, [6, 0, 0, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        ("ports of the machine", libc::SYS_iopl, [-1, 0, 0, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        ("a call of the x32 kind", libc::SYS_socket | 0x4000_0000, [2, 1, 0, 0, 0]),
    ];

    #[test]
    fn what_a_taken_over_loader_would_want_is_not_there() {
        let answers = filtered(|| {
            WANTED
                .iter()
                .map(|(what, number, arguments)| (*what, call(*number, *arguments)))
                .collect::<Vec<_>>()
        });
        let there: Vec<_> = answers.iter().filter(|(_, answer)| *answer != NOT_THERE).collect();
        assert!(answers.len() >= 65 && there.is_empty(), "{there:?}");
    }

    #[test]
    fn without_the_filter_the_kernel_would_have_answered_otherwise() {
        // So the answers are the filter's, and not those of a machine that lacks the calls. A descriptor for a socket that is
        // given is closed with this thread's process.
        let asked = ["a connection", "a program", "a trace", "a mount", "a signal to another"];
        for (what, number, arguments) in WANTED.iter().filter(|(what, ..)| asked.contains(what)) {
            assert_ne!(call(*number, *arguments), NOT_THERE, "{what}");
        }
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
