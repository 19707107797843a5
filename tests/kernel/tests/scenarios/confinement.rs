//! What the loader may do in its container, by the kernel's own word.

use rstest::rstest;
use tenon_lab::kernel::Origin;

use crate::node::Node;

/// `CAP_SYS_MODULE` and `CAP_SYSLOG` of `include/uapi/linux/capability.h`.
const CAPABILITIES: u64 = 1 << 16 | 1 << 34;

#[rstest]
#[tokio::test]
async fn the_loader_is_confined(#[values(Origin::Stable, Origin::Backports)] origin: Origin) {
    let node = Node::boot(origin).await;
    let pid = node.guest.shell("pidof tenon-loader").await.unwrap().trim().to_owned();
    privileges(&node, &pid).await;
    files(&node, &pid).await;
    sockets(&node, &pid).await;
    only_the_agent_is_heard(&node).await;
}

async fn privileges(node: &Node, pid: &str) {
    let status = node.text(&format!("/proc/{pid}/status")).await;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), CAPABILITIES, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
    assert_eq!(field("Seccomp_filters"), "2", "the runtime's filter and the loader's own");
    assert_eq!(field("Threads"), "1");
    // The first process of its own container.
    assert!(field("NSpid").ends_with("\t1"), "{}", field("NSpid"));
}

async fn files(node: &Node, pid: &str) {
    let mounts = node.text(&format!("/proc/{pid}/mountinfo")).await;
    let options = |path: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(path));
        let line = line.unwrap_or_else(|| panic!("{path} is not mounted: {mounts}"));
        line.split(' ').nth(5).unwrap().split(',').next().unwrap().to_owned()
    };
    for path in ["/", "/sys", "/lib/modules", "/etc/tenon/order-keys"] {
        assert_eq!(options(path), "ro", "{path}");
    }
    for path in ["/var/lib/tenon", "/run/tenon", "/run/firmware_class"] {
        assert_eq!(options(path), "rw", "{path}");
    }
    // No token, no host directory that the table does not name.
    let program = node.guest.shell(&format!("cd /proc/{pid}/root && ls -A . | tr '\\n' ' '")).await.unwrap();
    assert_eq!(program, "dev etc lib proc run sys tenon-loader var ");
    let mode = node.guest.shell("stat -c '%a %u' /var/lib/tenon").await.unwrap();
    assert_eq!(mode, "700 0\n");
}

/// It shares the host's network, and has nothing there but its own socket: the filter lets it make no other.
async fn sockets(node: &Node, pid: &str) {
    let open = node.guest.shell(&format!("ls -l /proc/{pid}/fd")).await.unwrap();
    assert_eq!(open.matches("socket:[").count(), 1, "{open}");
    let unix = node.text("/proc/net/unix").await;
    let listening = unix.lines().filter(|line| line.ends_with("/loader.sock")).count();
    assert_eq!(listening, 1, "{unix}");
    let namespace =
        async |pid: &str| node.guest.shell(&format!("readlink /proc/{pid}/ns/net")).await.unwrap();
    assert_eq!(namespace(pid).await, namespace("1").await);
}

/// Root on the node is not the agent.
async fn only_the_agent_is_heard(node: &Node) {
    const HELLO: &str = r#"printf '\0\0\0\7"Hello"'"#;
    // The same way in, under another user: what it says is not answered.
    let ask = |port: u16| format!("{{ {HELLO}; sleep 1; }} | nc 127.0.0.1 {port} | wc -c");
    let forward = "/init forward 7001 /disk/pod/run/loader.sock >/dev/null 2>&1 & echo $!";
    let forwarder = node.guest.shell(forward).await.unwrap();
    node.guest.shell("until nc 127.0.0.1 7001 </dev/null; do usleep 10000; done").await.unwrap();
    assert_eq!(node.guest.shell(&ask(7001)).await.unwrap().trim(), "0");
    assert_ne!(node.guest.shell(&ask(7000)).await.unwrap().trim(), "0");
    node.guest.shell(&format!("kill {}", forwarder.trim())).await.unwrap();
    let said = std::fs::read_to_string(node.guest.console()).unwrap();
    assert!(said.contains("connection ended: user 0 is not the agent"), "{said}");
}
