//! The agent's part: it carries orders and bundles to the loader, and reports back.

use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use tenon_order::wire::{Client, Hello, Refusal, Reply, Request, WireError};
use tenon_order::{NodeReport, read_unverified};

use crate::bundle::Depot;

/// A loader that says nothing for so long is stuck: a loaded machine emulates slowly.
const PATIENCE: Duration = Duration::from_mins(2);

/// A conversation with the loader.
pub(crate) struct Agent {
    client: Client<TcpStream>,
}

/// A request that the loader did not follow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Refusal,
    pub(crate) message: String,
}

impl Agent {
    /// Begins a conversation with whoever is there to answer.
    pub(crate) fn connect(address: SocketAddrV4) -> Result<(Self, Hello), WireError> {
        let stream = TcpStream::connect(address).map_err(WireError::Io)?;
        stream.set_nodelay(true).map_err(WireError::Io)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(WireError::Io)?;
        let mut agent = Self { client: Client::new(stream) };
        match agent.client.call(&Request::Hello)? {
            Reply::Hello(hello) => Ok((agent, hello)),
            other => panic!("no hello: {other:?}"),
        }
    }

    /// Brings an order and all that it needs, and has it applied. The outer error is a connection that broke.
    pub(crate) fn apply(&mut self, order: &str, depot: &Depot) -> Result<NodeReport, WireError> {
        let missing = match self.client.call(&Request::Order { order: order.to_owned() })? {
            Reply::Accepted { generation, missing } => {
                assert_eq!(generation, read_unverified(order).unwrap().generation);
                missing
            }
            other => panic!("the order is not accepted: {other:?}"),
        };
        for digest in missing {
            // What the depot does not have stays missing.
            let Some(bundle) = depot.get(&digest) else { continue };
            let manifest = bundle.manifest().emit();
            let Reply::Need { files } = self.client.call(&Request::Bundle { digest, manifest })? else {
                panic!("bundle {digest} is not wanted")
            };
            for file in files {
                let stored = self.client.send_file(file.digest, file.size, bundle.file(file.digest))?;
                assert_eq!(stored, Reply::Stored);
            }
        }
        self.report(&Request::Apply)
    }

    /// A request that is answered by a report.
    pub(crate) fn report(&mut self, request: &Request) -> Result<NodeReport, WireError> {
        match self.client.call(request)? {
            Reply::Report(report) => Ok(report),
            other => panic!("no report: {other:?}"),
        }
    }

    /// A request that is not followed.
    pub(crate) fn refusal(&mut self, request: &Request) -> Refused {
        match self.client.call(request).unwrap() {
            Reply::Refused { reason, message } => Refused { reason, message },
            other => panic!("not refused: {other:?}"),
        }
    }
}
