//! The agent's part: it carries orders and bundles to the loader, and reports back.

use std::io::Read as _;
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
    stream: TcpStream,
}

/// A request that the loader did not follow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Refusal,
    pub(crate) message: String,
}

impl Refused {
    fn of(reply: Reply) -> Self {
        match reply {
            Reply::Refused { reason, message } => Self { reason, message },
            other => panic!("not refused: {other:?}"),
        }
    }
}

impl Agent {
    /// Begins a conversation with whoever is there to answer.
    pub(crate) fn connect(address: SocketAddrV4) -> Result<(Self, Hello), WireError> {
        let stream = TcpStream::connect(address).map_err(WireError::Io)?;
        stream.set_nodelay(true).map_err(WireError::Io)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(WireError::Io)?;
        let client = Client::new(stream.try_clone().map_err(WireError::Io)?);
        let mut agent = Self { client, stream };
        match agent.client.call(&Request::Hello)? {
            Reply::Hello(hello) => Ok((agent, hello)),
            other => panic!("no hello: {other:?}"),
        }
    }

    /// Brings an order and all that it needs, and has it applied. The outer error is a connection that broke.
    pub(crate) fn apply(&mut self, order: &str, depot: &Depot) -> Result<NodeReport, WireError> {
        Ok(self.try_apply(order, depot)?.unwrap())
    }

    /// The same, which may be refused.
    pub(crate) fn try_apply(
        &mut self,
        order: &str,
        depot: &Depot,
    ) -> Result<Result<NodeReport, Refused>, WireError> {
        match self.bring(order, depot)? {
            Ok(()) => self.report(&Request::Apply).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Brings an order and all that it needs.
    pub(crate) fn bring(&mut self, order: &str, depot: &Depot) -> Result<Result<(), Refused>, WireError> {
        let missing = match self.client.call(&Request::Order { order: order.to_owned() })? {
            Reply::Accepted { generation, missing } => {
                assert_eq!(generation, read_unverified(order).unwrap().generation);
                missing
            }
            other => return Ok(Err(Refused::of(other))),
        };
        for digest in missing {
            // What the depot does not have stays missing.
            let Some(bundle) = depot.get(&digest) else { continue };
            let manifest = bundle.manifest().emit();
            let files = match self.client.call(&Request::Bundle { digest, manifest })? {
                Reply::Need { files } => files,
                other => return Ok(Err(Refused::of(other))),
            };
            for file in files {
                match self.client.send_file(file.digest, file.size, bundle.file(file.digest))? {
                    Reply::Stored => {}
                    other => return Ok(Err(Refused::of(other))),
                }
            }
        }
        Ok(Ok(()))
    }

    /// A request that is answered by a report.
    pub(crate) fn report(&mut self, request: &Request) -> Result<NodeReport, WireError> {
        match self.client.call(request)? {
            Reply::Report(report) => Ok(report),
            other => panic!("no report: {other:?}"),
        }
    }

    /// Waits until the loader hangs up.
    pub(crate) fn wait_for_end(&mut self) {
        // Nothing is asked, so nothing comes but the end.
        let told = self.stream.read(&mut [0]);
        assert!(matches!(told, Ok(0)), "{told:?}");
    }

    /// A request that is not followed.
    pub(crate) fn refusal(&mut self, request: &Request) -> Refused {
        Refused::of(self.client.call(request).unwrap())
    }
}
