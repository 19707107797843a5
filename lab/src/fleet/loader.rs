//! A loader without a kernel: it checks, keeps and reports as `tenon-loader` does, and remembers what it would have done.
//!
//! Pure: requests go in, answers come out. Its memory is the node's disk and lives through a "reboot", which only
//! forgets what was loaded.

use std::collections::{BTreeMap, BTreeSet};

use tenon_order::wire::{Hello, NeededFile, Refusal, Reply, Request};
use tenon_order::{
    BundleManifest, Digest, KeySet, Load, ModuleKey, ModuleReport, NodeName, NodeReport, Order, Phase,
    Reason, SignedOrderError, StoreId, Wish, verify,
};

/// Something that was done to the kernel that is not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// A Module was loaded.
    Loaded {
        /// Which.
        module: ModuleKey,
        /// From which bundle.
        bundle: Digest,
    },
    /// The kernel refused it.
    Refused {
        /// Which.
        module: ModuleKey,
        /// From which bundle.
        bundle: Digest,
    },
    /// A Module was unloaded.
    Unloaded {
        /// Which.
        module: ModuleKey,
        /// From which bundle it was.
        bundle: Digest,
    },
    /// The node was started anew: nothing is loaded.
    Booted,
}

/// What the world does to a loader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Bundles whose modules the kernel refuses.
    pub refused: BTreeSet<Digest>,
    /// Modules that somebody uses.
    pub busy: BTreeSet<ModuleKey>,
}

/// One node's loader, its disk included.
#[derive(Debug)]
pub struct Loader {
    node: NodeName,
    store: StoreId,
    kernel: String,
    boot_id: String,
    keys: KeySet,
    order: Option<(String, Order)>,
    manifests: BTreeMap<Digest, BundleManifest>,
    files: BTreeSet<Digest>,
    records: BTreeMap<ModuleKey, Record>,
    deeds: Vec<Deed>,
    /// What the world does.
    pub behaviour: Behaviour,
}

/// What is remembered of a Module.
#[derive(Debug, Clone, Default)]
struct Record {
    /// What is loaded in the present boot.
    live: Option<Load>,
    /// The last content that loaded.
    kept: Option<Load>,
    /// The content that did not load.
    failed: Option<Load>,
    outcome: Option<(Phase, Reason)>,
}

impl Loader {
    /// A node that has just been made, with an empty disk.
    pub fn new(node: NodeName, store: StoreId, kernel: String, boot_id: String) -> Self {
        Self {
            node,
            store,
            kernel,
            boot_id,
            keys: KeySet::default(),
            order: None,
            manifests: BTreeMap::new(),
            files: BTreeSet::new(),
            records: BTreeMap::new(),
            deeds: Vec::new(),
            behaviour: Behaviour::default(),
        }
    }

    /// Everything that was done, from the beginning.
    pub fn deeds(&self) -> &[Deed] {
        &self.deeds
    }

    /// What is loaded now.
    pub fn loaded(&self) -> impl Iterator<Item = (&ModuleKey, &Load)> {
        self.records.iter().filter_map(|(key, record)| Some((key, record.live.as_ref()?)))
    }

    /// The node starts anew.
    pub fn reboot(&mut self, boot_id: String) {
        self.boot_id = boot_id;
        self.deeds.push(Deed::Booted);
        for record in self.records.values_mut() {
            record.live = None;
        }
    }

    /// The mounted keys; none changes nothing.
    pub fn renew_keys(&mut self, mounted: &KeySet) {
        if !mounted.is_empty() {
            self.keys = mounted.clone();
        }
    }

    /// Answers every request but `File`, whose bytes come to [`Self::receive`].
    pub fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Hello => Reply::Hello(Hello {
                store: self.store,
                node: self.node.clone(),
                generation: self.order.as_ref().map(|(_, order)| order.generation),
                boot_id: self.boot_id.clone(),
                kernel: self.kernel.clone(),
                key_ids: self.keys.ids(),
            }),
            Request::Order { order } => self.accept(order).unwrap_or_else(refused),
            Request::Bundle { digest, manifest } => self.bundle(digest, &manifest).unwrap_or_else(refused),
            Request::Apply | Request::Silent => {
                self.apply();
                Reply::Report(self.report())
            }
            Request::Report => Reply::Report(self.report()),
            Request::File { digest, .. } => refused((Refusal::NotWanted, format!("file {digest}"))),
        }
    }

    /// A file has come.
    pub fn receive(&mut self, announced: Digest, content: &[u8]) -> Reply {
        let wanted = self.manifests.values().flat_map(BundleManifest::entries);
        let wanted =
            wanted.clone().any(|entry| entry.digest == announced && entry.size == content.len() as u64);
        if !wanted {
            return refused((Refusal::NotWanted, format!("file {announced}")));
        }
        if Digest::of(content) != announced {
            return refused((Refusal::WrongDigest, format!("file {announced}")));
        }
        self.files.insert(announced);
        Reply::Stored
    }

    fn accept(&mut self, text: String) -> Result<Reply, (Refusal, String)> {
        if self.keys.is_empty() {
            return Err((Refusal::NoKeys, "no key is known".to_owned()));
        }
        let order =
            verify(&text, &self.keys).map_err(|error| (refusal(&error), error.to_string()))?.into_inner();
        if order.node != self.node {
            return Err((Refusal::WrongNode, format!("the order is for node {}", order.node)));
        }
        if order.store != self.store {
            return Err((Refusal::WrongStore, format!("the order is for store {}", order.store)));
        }
        if let Some((held_text, held)) = &self.order {
            if order.generation < held.generation {
                return Err((Refusal::OlderGeneration, format!("generation {} is held", held.generation)));
            }
            if order.generation == held.generation && *held_text != text {
                return Err((Refusal::SameGeneration, format!("generation {} is held", held.generation)));
            }
        }
        let mut missing: Vec<_> =
            loads(&order).map(|(_, load)| load.bundle).filter(|bundle| !self.has(*bundle)).collect();
        missing.sort();
        missing.dedup();
        let generation = order.generation;
        self.order = Some((text, order));
        Ok(Reply::Accepted { generation, missing })
    }

    fn bundle(&mut self, digest: Digest, text: &str) -> Result<Reply, (Refusal, String)> {
        let order = self.order.as_ref().map(|(_, order)| order);
        if !order.is_some_and(|order| loads(order).any(|(_, load)| load.bundle == digest)) {
            return Err((Refusal::NotWanted, format!("bundle {digest}")));
        }
        let wrong = || (Refusal::WrongManifest, format!("bundle {digest}"));
        let manifest = BundleManifest::parse(text).map_err(|_| wrong())?;
        if manifest.digest() != digest {
            return Err(wrong());
        }
        let missing = manifest.entries().iter().filter(|entry| !self.files.contains(&entry.digest));
        let mut files: Vec<_> =
            missing.map(|entry| NeededFile { digest: entry.digest, size: entry.size }).collect();
        files.sort_by_key(|file| file.digest);
        files.dedup_by_key(|file| file.digest);
        self.manifests.insert(digest, manifest);
        Ok(Reply::Need { files })
    }

    fn has(&self, bundle: Digest) -> bool {
        let manifest = self.manifests.get(&bundle);
        manifest
            .is_some_and(|manifest| manifest.entries().iter().all(|entry| self.files.contains(&entry.digest)))
    }

    fn apply(&mut self) {
        let order = self.order.as_ref().map(|(_, order)| order.clone());
        let wishes = order.map(|order| order.modules).unwrap_or_default();
        for module in &wishes {
            let mut record = self.records.remove(&module.key).unwrap_or_default();
            let outcome = match &module.wish {
                Wish::Loaded(load) => self.bring(&module.key, load, &mut record),
                Wish::Removed => self.take_out(&module.key, &mut record),
            };
            record.outcome = Some(outcome);
            if outcome.0 != Phase::Removed {
                self.records.insert(module.key.clone(), record);
            }
        }
        // What the order does not speak of stays, and comes back after a boot.
        let orphans: Vec<_> = self
            .records
            .keys()
            .filter(|key| wishes.iter().all(|module| module.key != **key))
            .cloned()
            .collect();
        for key in orphans {
            let mut record = self.records.remove(&key).unwrap_or_default();
            if let (None, Some(kept)) = (&record.live, record.kept.clone()) {
                self.load(&key, &kept, &mut record);
            }
            if record.live.is_some() {
                record.outcome = Some((Phase::Orphaned, Reason::NotOrdered));
                self.records.insert(key, record);
            }
        }
    }

    fn bring(&mut self, key: &ModuleKey, load: &Load, record: &mut Record) -> (Phase, Reason) {
        if load.kernel != self.kernel {
            return (Phase::Failed, Reason::WrongKernel);
        }
        if record.live.as_ref() == Some(load) {
            return (Phase::Loaded, Reason::Loaded);
        }
        if !self.has(load.bundle) {
            return (Phase::WaitingForBundle, Reason::BundleMissing);
        }
        let fallback = record.kept.clone().filter(|kept| kept != load);
        if fallback.is_some() && record.failed.as_ref() == Some(load) {
            if record.live.is_none()
                && let Some(kept) = &fallback
            {
                self.load(key, kept, record);
            }
            return (Phase::RolledBack, Reason::KernelRefused);
        }
        if record.live.is_some() && !self.unload(key, record) {
            return (Phase::InUse, Reason::InUse);
        }
        if self.load(key, load, record) {
            record.failed = None;
            return (Phase::Loaded, Reason::Loaded);
        }
        record.failed = Some(load.clone());
        match fallback {
            Some(kept) if self.load(key, &kept, record) => (Phase::RolledBack, Reason::KernelRefused),
            _ => (Phase::Failed, Reason::KernelRefused),
        }
    }

    fn take_out(&mut self, key: &ModuleKey, record: &mut Record) -> (Phase, Reason) {
        if record.live.is_some() && !self.unload(key, record) {
            return (Phase::InUse, Reason::InUse);
        }
        (Phase::Removed, Reason::Removed)
    }

    fn load(&mut self, key: &ModuleKey, load: &Load, record: &mut Record) -> bool {
        let (module, bundle) = (key.clone(), load.bundle);
        if self.behaviour.refused.contains(&bundle) {
            self.deeds.push(Deed::Refused { module, bundle });
            return false;
        }
        self.deeds.push(Deed::Loaded { module, bundle });
        (record.live, record.kept) = (Some(load.clone()), Some(load.clone()));
        true
    }

    fn unload(&mut self, key: &ModuleKey, record: &mut Record) -> bool {
        if self.behaviour.busy.contains(key) {
            return false;
        }
        if let Some(live) = record.live.take() {
            self.deeds.push(Deed::Unloaded { module: key.clone(), bundle: live.bundle });
        }
        true
    }

    fn report(&self) -> NodeReport {
        let order = self.order.as_ref().map(|(_, order)| order);
        let ordered = order.into_iter().flat_map(|order| &order.modules);
        let mut modules: BTreeMap<_, _> = ordered.map(|module| (&module.key, Some(&module.wish))).collect();
        for key in self.records.keys() {
            modules.entry(key).or_insert(None);
        }
        NodeReport {
            store: self.store,
            generation: order.map(|order| order.generation),
            boot_id: self.boot_id.clone(),
            kernel: self.kernel.clone(),
            key_ids: self.keys.ids(),
            modules: modules.into_iter().map(|(key, wish)| self.module_report(key, wish)).collect(),
        }
    }

    fn module_report(&self, key: &ModuleKey, wish: Option<&Wish>) -> ModuleReport {
        let nothing = Record::default();
        let record = self.records.get(key).unwrap_or(&nothing);
        let ordered = match wish {
            Some(Wish::Loaded(load)) => Some(load),
            _ => None,
        };
        let settled = record.outcome.filter(|(phase, _)| {
            record.live.is_some() || !matches!(phase, Phase::Loaded | Phase::RolledBack)
        });
        let (phase, reason) = match (wish, settled) {
            (None, _) => (Phase::Orphaned, Reason::NotOrdered),
            (_, Some(outcome)) => outcome,
            (Some(Wish::Removed), None) => (Phase::Removed, Reason::Removed),
            (Some(Wish::Loaded(load)), None) if !self.has(load.bundle) => {
                (Phase::WaitingForBundle, Reason::BundleMissing)
            }
            (Some(Wish::Loaded(_)), None) => (Phase::Failed, Reason::NotApplied),
        };
        let content = record.live.as_ref().or(ordered);
        let failed = record.failed.as_ref().map(|failed| failed.bundle);
        ModuleReport {
            key: key.clone(),
            phase,
            reason,
            message: format!("{reason:?}"),
            bundle: content.map(|content| content.bundle),
            parameters: content.map(|content| content.parameters.clone()).unwrap_or_default(),
            loaded_at: record.live.is_some().then_some(LOADED_AT),
            modules: record.live.iter().map(|live| live.module.clone()).collect(),
            rolled_back: failed.filter(|_| phase == Phase::RolledBack),
        }
    }
}

/// When everything was loaded: no clock here, so that equal runs make equal reports.
const LOADED_AT: u64 = 1_750_000_000_000;

fn loads(order: &Order) -> impl Iterator<Item = (&ModuleKey, &Load)> {
    order.modules.iter().filter_map(|module| match &module.wish {
        Wish::Loaded(load) => Some((&module.key, load)),
        Wish::Removed => None,
    })
}

fn refused((reason, message): (Refusal, String)) -> Reply {
    Reply::Refused { reason, message }
}

fn refusal(error: &SignedOrderError) -> Refusal {
    match error {
        SignedOrderError::UnknownKey(_) | SignedOrderError::Signature(_) => Refusal::Signature,
        _ => Refusal::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use tenon_order::{Generation, OrderedModule, SigningKey, sign};

    use super::*;

    const KERNEL: &str = "6.1.0-0-lab";

    fn key() -> ModuleKey {
        "hall/gauge".parse().unwrap()
    }

    struct Play {
        loader: Loader,
        signer: SigningKey,
    }

    impl Play {
        fn new() -> Self {
            let signer = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap();
            let store = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
            let mut loader = Loader::new("pine".parse().unwrap(), store, KERNEL.into(), "boot-1".into());
            loader.renew_keys(&[signer.public()].into_iter().collect());
            Self { loader, signer }
        }

        fn order(&self, generation: u64, wish: Option<Wish>) -> Order {
            let modules = wish.into_iter().map(|wish| OrderedModule { key: key(), wish }).collect();
            Order {
                node: "pine".parse().unwrap(),
                store: self.loader.store,
                generation: Generation(generation),
                modules,
            }
        }

        fn tell(&mut self, order: &Order) -> Reply {
            let order = sign(order, &self.signer).unwrap();
            self.loader.answer(Request::Order { order })
        }

        /// Orders, brings what is missing, applies; gives the Module's phase.
        fn obey(&mut self, generation: u64, wish: Option<Wish>) -> Option<Phase> {
            let order = self.order(generation, wish);
            let Reply::Accepted { missing, .. } = self.tell(&order) else { panic!("refused") };
            for bundle in missing {
                let manifest = [b"one", b"two"].map(|content| manifest(content));
                let manifest = manifest.into_iter().find(|manifest| manifest.digest() == bundle).unwrap();
                self.loader.answer(Request::Bundle { digest: bundle, manifest: manifest.emit() });
                for content in [b"one", b"two"] {
                    self.loader.receive(Digest::of(content), content);
                }
            }
            let Reply::Report(report) = self.loader.answer(Request::Apply) else { panic!("no report") };
            report.modules.first().map(|module| module.phase)
        }
    }

    fn manifest(content: &[u8]) -> BundleManifest {
        BundleManifest::new(vec![tenon_order::ManifestEntry {
            digest: Digest::of(content),
            size: content.len() as u64,
            path: "modules/gauge.ko".parse().unwrap(),
        }])
        .unwrap()
    }

    fn wish(content: &[u8]) -> Wish {
        Wish::Loaded(Load {
            kernel: KERNEL.to_owned(),
            bundle: manifest(content).digest(),
            module: "gauge".parse().unwrap(),
            parameters: vec![],
            loading_order: vec![],
            in_tree_to_remove: vec![],
            firmware: false,
            retry: 0,
        })
    }

    fn names(deeds: &[Deed]) -> Vec<&'static str> {
        deeds
            .iter()
            .map(|deed| match deed {
                Deed::Loaded { .. } => "load",
                Deed::Refused { .. } => "refuse",
                Deed::Unloaded { .. } => "unload",
                Deed::Booted => "boot",
            })
            .collect()
    }

    #[test]
    fn what_is_ordered_is_done_once_and_again_after_a_boot() {
        let mut play = Play::new();
        assert_eq!(play.obey(1, Some(wish(b"one"))), Some(Phase::Loaded));
        assert_eq!(play.obey(2, Some(wish(b"one"))), Some(Phase::Loaded));
        play.loader.reboot("boot-2".to_owned());
        play.loader.answer(Request::Silent);
        assert_eq!(play.obey(3, Some(wish(b"two"))), Some(Phase::Loaded));
        assert_eq!(play.obey(4, Some(Wish::Removed)), Some(Phase::Removed));
        assert_eq!(names(play.loader.deeds()), ["load", "boot", "load", "unload", "load", "unload"]);
    }

    #[test]
    fn orders_that_the_real_loader_refuses_are_refused() {
        let mut play = Play::new();
        play.obey(5, Some(wish(b"one")));
        let reason = |reply| match reply {
            Reply::Refused { reason, .. } => Some(reason),
            _ => None,
        };
        let older = play.order(4, None);
        assert_eq!(reason(play.tell(&older)), Some(Refusal::OlderGeneration));
        let same = play.order(5, None);
        assert_eq!(reason(play.tell(&same)), Some(Refusal::SameGeneration));
        let elsewhere = Order { node: "oak".parse().unwrap(), ..play.order(6, None) };
        assert_eq!(reason(play.tell(&elsewhere)), Some(Refusal::WrongNode));
        let store = "ffffffffffffffffffffffffffffffff".parse().unwrap();
        let other = Order { store, ..play.order(6, None) };
        assert_eq!(reason(play.tell(&other)), Some(Refusal::WrongStore));
        play.signer = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap();
        let forged = play.order(6, None);
        assert_eq!(reason(play.tell(&forged)), Some(Refusal::Signature));
        assert_eq!(play.loader.loaded().count(), 1, "none of them changed anything");
    }

    #[test]
    fn what_does_not_load_gives_way_to_what_did_and_is_not_tried_again() {
        let mut play = Play::new();
        play.obey(1, Some(wish(b"one")));
        play.loader.behaviour.refused.insert(manifest(b"two").digest());
        assert_eq!(play.obey(2, Some(wish(b"two"))), Some(Phase::RolledBack));
        assert_eq!(play.obey(3, Some(wish(b"two"))), Some(Phase::RolledBack));
        assert_eq!(names(play.loader.deeds()), ["load", "unload", "refuse", "load"]);
    }

    #[test]
    fn what_is_in_use_stays_and_what_no_order_names_too() {
        let mut play = Play::new();
        play.obey(1, Some(wish(b"one")));
        play.loader.behaviour.busy.insert(key());
        assert_eq!(play.obey(2, Some(Wish::Removed)), Some(Phase::InUse));
        assert_eq!(play.obey(3, None), Some(Phase::Orphaned));
        play.loader.reboot("boot-2".to_owned());
        assert_eq!(play.obey(3, None), Some(Phase::Orphaned));
        assert_eq!(names(play.loader.deeds()), ["load", "boot", "load"]);
    }

    #[test]
    fn a_file_that_nobody_asked_for_or_that_is_another_is_refused() {
        let mut play = Play::new();
        assert!(matches!(play.loader.receive(Digest::of(b"one"), b"one"), Reply::Refused { .. }));
        let order = play.order(1, Some(wish(b"one")));
        play.tell(&order);
        let (digest, manifest) = (manifest(b"one").digest(), manifest(b"one").emit());
        play.loader.answer(Request::Bundle { digest, manifest });
        let wrong = play.loader.receive(Digest::of(b"one"), b"two");
        assert!(matches!(wrong, Reply::Refused { reason: Refusal::WrongDigest, .. }), "{wrong:?}");
        assert_eq!(play.loader.receive(Digest::of(b"one"), b"one"), Reply::Stored);
    }
}
