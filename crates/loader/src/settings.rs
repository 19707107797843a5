//! Where everything is. The defaults are what the pod mounts; tests and the host's unit say otherwise by flags.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tenon_order::{NameError, NodeName};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Obey the agent; the default.
    Serve,
    /// Load what the store holds, on the host, asking nobody.
    Boot,
    /// Forget the orders: the store becomes another one, and what is loaded stays.
    Reset,
    /// Say what the store holds.
    Status,
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The store.
    pub store: PathBuf,
    /// The socket that the agent connects to.
    pub socket: PathBuf,
    /// The mounted public keys, one file each, named by the key's id.
    pub keys: PathBuf,
    /// The host's `/lib/modules`.
    pub lib_modules: PathBuf,
    /// The host's `/sys/module/firmware_class/parameters`.
    pub firmware_class: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// The only user whose connections are heard.
    pub agent_uid: u32,
    /// How long the agent may take for a message before the next agent is heard.
    pub patience: Duration,
    /// This node's name, by the downward API.
    pub node: Option<NodeName>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: "/var/lib/tenon".into(),
            socket: "/run/tenon/loader.sock".into(),
            keys: "/etc/tenon/order-keys".into(),
            lib_modules: "/lib/modules".into(),
            firmware_class: "/run/firmware_class".into(),
            proc: "/proc".into(),
            sys: "/sys".into(),
            agent_uid: 65531,
            patience: Duration::from_mins(2),
            node: None,
        }
    }
}

/// A command line that says nothing sensible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Neither a command nor a flag.
    #[error("unknown argument {0:?}; {USAGE}")]
    Unknown(OsString),
    /// A flag without its value.
    #[error("{0} needs a value; {USAGE}")]
    NoValue(&'static str),
    /// Not a user id.
    #[error("--agent-uid needs a number, not {0:?}")]
    Uid(OsString),
    /// `NODE_NAME` is not a name.
    #[error("read NODE_NAME")]
    Node(#[source] NameError),
}

const USAGE: &str = "usage: tenon-loader [serve|boot|reset|status] [--store DIR] [--socket PATH] [--keys DIR] \
                     [--lib-modules DIR] [--firmware-class DIR] [--agent-uid N]";

impl Settings {
    /// Reads the command line, without the program's name, and the node's name.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
        node: Option<String>,
    ) -> Result<(Command, Self), UsageError> {
        let mut settings = Self {
            node: node.map(|name| name.parse()).transpose().map_err(UsageError::Node)?,
            ..Self::default()
        };
        let mut command = Command::Serve;
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = |flag| arguments.next().ok_or(UsageError::NoValue(flag));
            match argument.to_str() {
                Some("serve") => command = Command::Serve,
                Some("boot") => {
                    command = Command::Boot;
                    // On the host there is nothing to be mounted elsewhere.
                    settings.firmware_class = "/sys/module/firmware_class/parameters".into();
                }
                Some("reset") => command = Command::Reset,
                Some("status") => command = Command::Status,
                Some("--store") => settings.store = value("--store")?.into(),
                Some("--socket") => settings.socket = value("--socket")?.into(),
                Some("--keys") => settings.keys = value("--keys")?.into(),
                Some("--lib-modules") => settings.lib_modules = value("--lib-modules")?.into(),
                Some("--firmware-class") => settings.firmware_class = value("--firmware-class")?.into(),
                Some("--agent-uid") => {
                    let text = value("--agent-uid")?;
                    settings.agent_uid =
                        text.to_str().and_then(|text| text.parse().ok()).ok_or(UsageError::Uid(text))?;
                }
                _ => return Err(UsageError::Unknown(argument)),
            }
        }
        Ok((command, settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<(Command, Settings), UsageError> {
        Settings::parse(arguments.iter().map(OsString::from), Some("worker-3".to_owned()))
    }

    #[test]
    fn nothing_said_is_the_container() {
        let (command, settings) = parse(&[]).unwrap();
        assert_eq!(command, Command::Serve);
        assert_eq!(settings, Settings { node: Some("worker-3".parse().unwrap()), ..Settings::default() });
    }

    #[test]
    fn flags_are_read_anywhere() {
        let (command, settings) = parse(&["--store", "/a", "status", "--agent-uid", "7"]).unwrap();
        assert_eq!((command, settings.store, settings.agent_uid), (Command::Status, "/a".into(), 7));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(parse(&["load"]), Err(UsageError::Unknown("load".into())));
        assert_eq!(parse(&["--store"]), Err(UsageError::NoValue("--store")));
        assert_eq!(parse(&["--agent-uid", "root"]), Err(UsageError::Uid("root".into())));
    }
}
