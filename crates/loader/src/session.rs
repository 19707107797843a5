//! One connection of the agent: requests in, replies out. The agent is not trusted; it only carries.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read};

use tenon_order::wire::{Hello, NeededFile, Refusal, Reply, Request};
use tenon_order::{
    BundleManifest, Digest, Generation, NodeName, NodeReport, Order, Reason, SignedOrderError, StoreId, Wish,
    verify,
};

use crate::kernel;
use crate::report::report;
use crate::settings::Settings;
use crate::store::{Store, StoreError};
use crate::work::{self, WorkError};

/// A request that is not followed; it has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no key to check an order with.
    #[error("no key is known: mount the operator's public keys at {0}")]
    NoKeys(String),
    /// The order is not believed, or not understood.
    #[error(transparent)]
    Signed(#[from] SignedOrderError),
    /// The order is for another node.
    #[error("the order is for node {ordered}, this is {here}")]
    WrongNode {
        /// Whom it names.
        ordered: NodeName,
        /// Who this is.
        here: NodeName,
    },
    /// The store was made on another node.
    #[error("the store belongs to node {kept}, this is {here}; `tenon-loader reset` makes it this node's")]
    NodeChanged {
        /// Whose store it is.
        kept: NodeName,
        /// Who this is.
        here: NodeName,
    },
    /// The order is for another store.
    #[error("the order is for another store, this is {0}")]
    WrongStore(StoreId),
    /// A later order is held.
    #[error("the order has generation {ordered}, {held} is held")]
    Older {
        /// The generation offered.
        ordered: Generation,
        /// The generation held.
        held: Generation,
    },
    /// Two orders of one generation.
    #[error("another order of generation {0} is held")]
    SameGeneration(Generation),
    /// The list is not the bundle's.
    #[error("the manifest is not that of bundle {0}")]
    WrongManifest(Digest),
    /// Nothing asks for it.
    #[error("{0} is not asked for")]
    NotWanted(Digest),
    /// The bytes are other ones.
    #[error("the bytes sent for {0} have another digest")]
    WrongDigest(Digest),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The order could not be followed at all.
    #[error(transparent)]
    Work(#[from] WorkError),
}

impl RequestError {
    /// The word for it on the wire.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::NoKeys(_) => Refusal::NoKeys,
            Self::Signed(SignedOrderError::UnknownKey(_) | SignedOrderError::Signature(_)) => {
                Refusal::Signature
            }
            Self::Signed(_) => Refusal::Malformed,
            Self::WrongNode { .. } | Self::NodeChanged { .. } => Refusal::WrongNode,
            Self::WrongStore(_) => Refusal::WrongStore,
            Self::Older { .. } => Refusal::OlderGeneration,
            Self::SameGeneration(_) => Refusal::SameGeneration,
            Self::WrongManifest(_) => Refusal::WrongManifest,
            Self::NotWanted(_) => Refusal::NotWanted,
            Self::WrongDigest(_) => Refusal::WrongDigest,
            Self::Store(_) | Self::Work(_) => Refusal::StoreFailed,
        }
    }
}

/// What an answer means for the loads that wait for the agent after a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    None,
    /// The current order is here.
    Ordered,
    /// What the store holds was loaded.
    Applied {
        /// Whether something of it has to be tried again a little later.
        postponed: bool,
    },
}

/// Whether something has to be tried again a little later.
pub fn is_postponed(report: &NodeReport) -> bool {
    report.modules.iter().any(|module| module.reason == Reason::LoadPostponed)
}

/// A conversation.
#[derive(Debug)]
pub struct Session<'a> {
    settings: &'a Settings,
    node: &'a NodeName,
    /// Files that a manifest of this conversation needs, and their sizes.
    wanted: BTreeMap<Digest, u64>,
}

impl<'a> Session<'a> {
    /// Begins a conversation on this node.
    pub fn new(settings: &'a Settings, node: &'a NodeName) -> Self {
        Self { settings, node, wanted: BTreeMap::new() }
    }

    /// Answers a request. A file's bytes are read from `stream`; no more of them than it announced, and no less, unless
    /// the stream itself fails.
    pub fn answer(&mut self, request: Request, stream: &mut impl Read) -> io::Result<(Reply, Progress)> {
        if let Request::File { digest, size } = request {
            let reply = self.file(digest, size, stream)?;
            return Ok((reply.unwrap_or_else(|error| refused(&error)), Progress::None));
        }
        let applies = matches!(request, Request::Apply | Request::Silent);
        Ok(match self.reply(request) {
            Ok(reply) => {
                let progress = match &reply {
                    Reply::Accepted { .. } => Progress::Ordered,
                    Reply::Report(report) if applies => Progress::Applied { postponed: is_postponed(report) },
                    _ => Progress::None,
                };
                (reply, progress)
            }
            Err(error) => (refused(&error), Progress::None),
        })
    }

    fn reply(&mut self, request: Request) -> Result<Reply, RequestError> {
        let store = Store::open(&self.settings.store)?;
        match request {
            Request::Hello => self.hello(&store),
            Request::Order { order } => self.order(&order, &store),
            Request::Bundle { digest, manifest } => self.bundle(digest, &manifest, &store),
            Request::Apply | Request::Silent => Ok(Reply::Report(work::apply(&store, self.settings)?)),
            Request::Report => Ok(Reply::Report(report(&store, self.settings)?)),
            Request::File { digest, .. } => Err(RequestError::NotWanted(digest)),
        }
    }

    fn hello(&self, store: &Store) -> Result<Reply, RequestError> {
        Ok(Reply::Hello(Hello {
            store: store.id(),
            node: self.node.clone(),
            generation: store.order()?.map(|(_, order)| order.generation),
            boot_id: kernel::boot_id(self.settings).map_err(WorkError::from)?,
            kernel: kernel::release(),
            key_ids: store.renew_keys(&self.settings.keys)?.ids(),
        }))
    }

    fn order(&self, text: &str, store: &Store) -> Result<Reply, RequestError> {
        let keys = store.renew_keys(&self.settings.keys)?;
        if keys.is_empty() {
            return Err(RequestError::NoKeys(self.settings.keys.display().to_string()));
        }
        let order = verify(text, &keys)?.into_inner();
        self.check(text, &order, store)?;
        store.keep_order(text, self.node)?;
        let loads = order.modules.iter().filter_map(|module| match &module.wish {
            Wish::Loaded(load) => Some(load.bundle),
            Wish::Removed => None,
        });
        let mut missing: Vec<_> = loads.filter(|bundle| !store.has_bundle(*bundle)).collect();
        missing.sort();
        missing.dedup();
        Ok(Reply::Accepted { generation: order.generation, missing })
    }

    /// Refuses what is not meant for here and now.
    fn check(&self, text: &str, order: &Order, store: &Store) -> Result<(), RequestError> {
        let (kept, held) = (store.node()?, store.order()?);
        let held = held.as_ref().map(|(text, order)| (text.as_str(), order.generation));
        Holder { node: self.node, kept: kept.as_ref(), store: store.id(), held }.admit(text, order)
    }

    fn bundle(&mut self, digest: Digest, text: &str, store: &Store) -> Result<Reply, RequestError> {
        let order = store.order()?.map(|(_, order)| order);
        let wanted = |wish: &Wish| matches!(wish, Wish::Loaded(load) if load.bundle == digest);
        if !order.is_some_and(|order| order.modules.iter().any(|module| wanted(&module.wish))) {
            return Err(RequestError::NotWanted(digest));
        }
        let manifest = BundleManifest::parse(text).map_err(|_| RequestError::WrongManifest(digest))?;
        if manifest.digest() != digest {
            return Err(RequestError::WrongManifest(digest));
        }
        store.keep_manifest(&manifest)?;
        let files: Vec<NeededFile> = store.missing_files(&manifest);
        self.wanted.extend(files.iter().map(|file| (file.digest, file.size)));
        Ok(Reply::Need { files })
    }

    /// The outer error is the stream's: where the next message begins is not known any more.
    fn file(
        &mut self,
        digest: Digest,
        size: u64,
        stream: &mut impl Read,
    ) -> io::Result<Result<Reply, RequestError>> {
        let mut content = stream.take(size);
        let result = self.receive(digest, size, &mut content);
        io::copy(&mut content, &mut io::sink())?;
        // The stream ended before the file did.
        if content.limit() > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(result) }
    }

    fn receive(&mut self, digest: Digest, size: u64, content: &mut impl Read) -> Result<Reply, RequestError> {
        if self.wanted.get(&digest) != Some(&size) {
            return Err(RequestError::NotWanted(digest));
        }
        let store = Store::open(&self.settings.store)?;
        if !store.receive(digest, size, content)? {
            return Err(RequestError::WrongDigest(digest));
        }
        self.wanted.remove(&digest);
        Ok(Reply::Stored)
    }
}

/// Who is asked to take an order, and what it holds.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// The node that this is.
    pub node: &'a NodeName,
    /// The node that the store belongs to.
    pub kept: Option<&'a NodeName>,
    /// The store.
    pub store: StoreId,
    /// The order held: its text and its place in the sequence.
    pub held: Option<(&'a str, Generation)>,
}

impl Holder<'_> {
    /// Refuses an order whose signature is good but which is not meant for here and now.
    pub fn admit(&self, text: &str, order: &Order) -> Result<(), RequestError> {
        if order.node != *self.node {
            return Err(RequestError::WrongNode { ordered: order.node.clone(), here: self.node.clone() });
        }
        if let Some(kept) = self.kept.filter(|kept| *kept != self.node) {
            return Err(RequestError::NodeChanged { kept: kept.clone(), here: self.node.clone() });
        }
        if order.store != self.store {
            return Err(RequestError::WrongStore(self.store));
        }
        match self.held {
            Some((_, held)) if order.generation < held => {
                Err(RequestError::Older { ordered: order.generation, held })
            }
            Some((bytes, held)) if order.generation == held && bytes != text => {
                Err(RequestError::SameGeneration(held))
            }
            _ => Ok(()),
        }
    }
}

fn refused(error: &RequestError) -> Reply {
    Reply::Refused { reason: error.refusal(), message: tenon_order::clip(&explain(error)).to_owned() }
}

/// An error with its causes, none of them twice.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
