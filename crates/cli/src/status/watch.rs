//! The same whenever something changes, as the API server tells: drawn anew on a terminal, what changed added elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tenon_api::{Guarded, Module, ModuleImage, NodeModulesConfig};
use tokio::time::{Instant, timeout_at};

use super::{Args, Scope, answer_of, read};
use crate::answer::{self, NoAnswer};
use crate::seen::{Reader, Seen, SeenError, api, of_module};
use crate::terminal;

/// What changes together is shown together.
const TOGETHER: Duration = Duration::from_millis(250);
/// How long one watch lasts; the API server ends longer ones by itself.
const WATCH_SECONDS: u32 = 290;

/// Shows `scope` until something is in the way that does not pass.
pub(super) async fn watch(client: Client, scope: &Scope, args: &Args) -> Result<(), NoAnswer> {
    // Once by hand: what may not be read, or is not there, is said as without --watch.
    let first = read(Reader::new(client.clone()), scope).await?;
    let mut selector = labels_of(&first);
    let mut page = Page::default();
    loop {
        let mut changes = changes(&client, scope, &selector);
        let mut shelves = Shelves {
            waits_for: if matches!(scope, Scope::Module(_)) { 4 } else { 2 },
            ..Shelves::default()
        };
        loop {
            let Some(change) = changes.next().await else { return Ok(()) };
            shelves.take(change)?;
            let end = Instant::now() + TOGETHER;
            while let Ok(Some(change)) = timeout_at(end, changes.next()).await {
                shelves.take(change)?;
            }
            if shelves.waits_for > 0 {
                continue;
            }
            let seen = shelves.seen();
            page.show(&seen, scope, args)?;
            // Other nodes are meant than those that are watched.
            if labels_of(&seen) != selector {
                selector = labels_of(&seen);
                break;
            }
        }
    }
}

/// The labels of the nodes of the one Module that is shown.
fn labels_of(seen: &Seen) -> String {
    let selector = seen.modules.first().map(|module| module.spec.selector.clone()).unwrap_or_default();
    selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What has changed, of which kind.
#[derive(Debug)]
enum Change {
    Module(Box<Event<Guarded<Module>>>),
    Image(Box<Event<Guarded<ModuleImage>>>),
    Node(Box<Event<Node>>),
    Config(Box<Event<Guarded<NodeModulesConfig>>>),
    /// A kind that may not be read.
    Forbidden(&'static str),
    /// The cluster does not answer; it is asked again.
    Silent,
    /// It answers something else.
    Refused(Box<kube::Error>),
}

/// All changes in the scope.
fn changes(client: &Client, scope: &Scope, selector: &str) -> BoxStream<'static, Change> {
    let config = || watcher::Config::default().timeout(WATCH_SECONDS);
    let labelled = |labels: &str| if labels.is_empty() { config() } else { config().labels(labels) };
    match scope {
        Scope::Modules { namespace, selector } => {
            let modules = labelled(selector.as_deref().unwrap_or_default());
            stream::select_all([
                follow("Modules", api(client, namespace.as_deref()), modules, |event| {
                    Change::Module(Box::new(event))
                }),
                follow("ModuleImages", api(client, namespace.as_deref()), config(), |event| {
                    Change::Image(Box::new(event))
                }),
            ])
            .boxed()
        }
        Scope::Module(key) => {
            let namespace = Some(key.namespace());
            let one = config().fields(&format!("metadata.name={}", key.name()));
            stream::select_all([
                follow("Modules", api(client, namespace), one, |event| Change::Module(Box::new(event))),
                follow("ModuleImages", api(client, namespace), labelled(&of_module(key.name())), |event| {
                    Change::Image(Box::new(event))
                }),
                follow("Nodes", Api::all(client.clone()), labelled(selector), |event| {
                    Change::Node(Box::new(event))
                }),
                follow("NodeModulesConfigs", Api::all(client.clone()), config(), |event| {
                    Change::Config(Box::new(event))
                }),
            ])
            .boxed()
        }
    }
}

/// The changes of one kind, until it turns out that they may not be seen.
fn follow<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    change: fn(Event<K>) -> Change,
) -> BoxStream<'static, Change>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let changes = watcher(api, config).default_backoff().map_ok(change).map(move |seen| {
        seen.unwrap_or_else(|error| match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => refused(kind, error),
            // What it watched is too old: it lists anew.
            watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => Change::Silent,
        })
    });
    let is_over = |change: &Change| matches!(change, Change::Forbidden(_));
    changes
        .scan(false, move |over, change| {
            let before = std::mem::replace(over, is_over(&change));
            std::future::ready((!before).then_some(change))
        })
        .boxed()
}

fn refused(kind: &'static str, error: kube::Error) -> Change {
    match &error {
        kube::Error::Api(status) if status.code == 403 => Change::Forbidden(kind),
        kube::Error::Api(status) if status.code == 404 || status.code == 401 => {
            Change::Refused(Box::new(error))
        }
        _ => Change::Silent,
    }
}

/// The objects of one kind.
#[derive(Debug)]
struct Shelf<K> {
    objects: BTreeMap<(Option<String>, String), K>,
    /// Of a list that has not come to its end.
    coming: BTreeMap<(Option<String>, String), K>,
    is_full: bool,
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), coming: BTreeMap::new(), is_full: false }
    }
}

impl<K: Resource> Shelf<K> {
    /// Takes a change; whether all objects are known for the first time.
    fn take(&mut self, event: Event<K>) -> bool {
        let name = |object: &K| (object.namespace(), object.name_any());
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => {
                self.coming.insert(name(&object), object);
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.coming);
                return !std::mem::replace(&mut self.is_full, true);
            }
            Event::Apply(object) => {
                self.objects.insert(name(&object), object);
            }
            Event::Delete(object) => {
                self.objects.remove(&name(&object));
            }
        }
        false
    }
}

/// All objects.
#[derive(Debug, Default)]
struct Shelves {
    modules: Shelf<Guarded<Module>>,
    images: Shelf<Guarded<ModuleImage>>,
    nodes: Shelf<Node>,
    configs: Shelf<Guarded<NodeModulesConfig>>,
    gaps: BTreeSet<String>,
    /// Kinds that are not known yet.
    waits_for: usize,
    is_silent: bool,
}

impl Shelves {
    fn take(&mut self, change: Change) -> Result<(), SeenError> {
        let was_silent = std::mem::replace(&mut self.is_silent, matches!(change, Change::Silent));
        let is_new = match change {
            Change::Module(event) => self.modules.take(*event),
            Change::Image(event) => self.images.take(*event),
            Change::Node(event) => self.nodes.take(*event),
            Change::Config(event) => self.configs.take(*event),
            Change::Forbidden(kind) => {
                self.gaps.insert(format!("{kind} are left out: you may not watch them"));
                true
            }
            Change::Silent => {
                if !was_silent {
                    complain();
                }
                false
            }
            Change::Refused(source) => {
                return Err(SeenError::Read { what: "what changes".to_owned(), source });
            }
        };
        self.waits_for = self.waits_for.saturating_sub(usize::from(is_new));
        Ok(())
    }

    fn seen(&self) -> Seen {
        let nodes = self.nodes.objects.values();
        Seen {
            modules: good(&self.modules),
            images: good(&self.images),
            nodes: nodes.map(|node| (node.name_any(), node.clone())).collect(),
            configs: good(&self.configs).into_iter().map(|config| (config.name_any(), config)).collect(),
            gaps: self.gaps.iter().cloned().collect(),
            now: Timestamp::now(),
            ..Seen::default()
        }
    }
}

fn good<K: Clone>(shelf: &Shelf<Guarded<K>>) -> Vec<K> {
    shelf.objects.values().filter_map(|object| object.0.as_ref().ok().cloned()).collect()
}

fn complain() {
    use std::io::Write as _;

    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "(the cluster does not answer; it is asked again)");
}

/// What was shown last.
#[derive(Debug, Default)]
struct Page {
    parts: Vec<String>,
}

impl Page {
    fn show(&mut self, seen: &Seen, scope: &Scope, args: &Args) -> Result<(), NoAnswer> {
        let answer = answer_of(seen, scope)?;
        if let Some(format) = args.format() {
            let text = answer.formatted(format)?;
            if self.parts != [text.clone()] {
                let begin = if args.format() == Some(answer::Format::Yaml) { "---\n" } else { "" };
                answer::say(&format!("{begin}{text}"))?;
                self.parts = vec![text];
            }
            return Ok(());
        }
        let parts = answer.parts(args.manner());
        let text = match terminal::height(&std::io::stdout()) {
            Some(height) if self.parts.is_empty() => {
                format!("\u{1b}[2J{}", terminal::redrawn(&parts.concat(), height))
            }
            Some(height) => terminal::redrawn(&parts.concat(), height),
            None => added(&self.parts, &parts),
        };
        if self.parts != parts {
            answer::say(&text)?;
            self.parts = parts;
        }
        Ok(())
    }
}

/// The parts that were not there before.
fn added(before: &[String], now: &[String]) -> String {
    now.iter().filter(|part| !before.contains(part)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node
    }

    fn names(shelf: &Shelf<Node>) -> Vec<String> {
        shelf.objects.values().map(Node::name_any).collect()
    }

    #[test]
    fn a_shelf_holds_what_was_listed_and_what_has_changed_since() {
        let mut shelf = Shelf::default();
        assert!(!shelf.take(Event::Init) && !shelf.take(Event::InitApply(node("oak"))));
        assert!(names(&shelf).is_empty(), "not before the list has come to its end");
        assert!(shelf.take(Event::InitDone), "now all are known");
        assert!(!shelf.take(Event::Apply(node("elm"))));
        assert_eq!(names(&shelf), ["elm", "oak"]);
        shelf.take(Event::Delete(node("oak")));
        // Listed anew: what went meanwhile is gone.
        shelf.take(Event::Init);
        shelf.take(Event::InitApply(node("fir")));
        assert_eq!(names(&shelf), ["elm"]);
        assert!(!shelf.take(Event::InitDone), "known they were before");
        assert_eq!(names(&shelf), ["fir"]);
    }

    #[test]
    fn elsewhere_than_on_a_terminal_only_what_changed_is_added() {
        let before = ["HEAD\n", "a 1\n", "b 1\n"].map(str::to_owned);
        let now = ["HEAD\n", "a 2\n", "b 1\n"].map(str::to_owned);
        assert_eq!(added(&[], &before), "HEAD\na 1\nb 1\n");
        assert_eq!(added(&before, &now), "a 2\n");
    }

    #[test]
    fn a_kind_that_may_not_be_seen_is_left_out_and_said() {
        let mut shelves = Shelves { waits_for: 2, ..Shelves::default() };
        shelves.take(Change::Forbidden("ModuleImages")).unwrap();
        shelves.take(Change::Module(Box::new(Event::InitDone))).unwrap();
        assert_eq!(shelves.waits_for, 0);
        assert_eq!(shelves.seen().gaps, ["ModuleImages are left out: you may not watch them"]);
    }
}
