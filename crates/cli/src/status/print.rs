//! The answer, for people and for programs.

use serde::Serialize;

use super::overview::{KernelRow, ModuleRow, NodeRow};
use super::table::{Block, Cell, render};
use crate::answer::{AnswerError, Format, written};
use crate::standing::State;
use crate::terminal::{Look, Tone};

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Answer {
    /// Modules.
    #[serde(rename_all = "camelCase")]
    Modules {
        modules: Vec<ModuleRow>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        left_out: Vec<String>,
    },
    /// One Module, and its nodes.
    #[serde(rename_all = "camelCase")]
    Nodes {
        module: ModuleRow,
        nodes: Vec<NodeRow>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        left_out: Vec<String>,
    },
}

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// With the namespaces of Modules.
    pub(super) namespaces: bool,
    /// With whole references and messages.
    pub(super) wide: bool,
    pub(super) look: Look,
}

impl Answer {
    pub(super) fn formatted(&self, format: Format) -> Result<String, AnswerError> {
        written(self, format)
    }

    /// As parts of a page, each of which tells of one Module, or one node; headings are parts, too.
    pub(super) fn parts(&self, manner: Manner) -> Vec<String> {
        let (mut parts, left_out) = match self {
            Self::Modules { modules, left_out } if modules.is_empty() => {
                (vec!["There is no Module here; -A shows those of all namespaces.\n".to_owned()], left_out)
            }
            Self::Modules { modules, left_out } => (module_parts(modules, manner), left_out),
            Self::Nodes { module, nodes, left_out } => {
                let mut parts = module_parts(std::slice::from_ref(module), manner);
                parts.push("\n".to_owned());
                parts.extend(node_parts(nodes, manner));
                (parts, left_out)
            }
        };
        let notes = left_out.iter().map(|gap| {
            format!("{}\n", manner.look.paint(Tone::Dim, &format!("note: {}", crate::terminal::plain(gap))))
        });
        parts.extend(notes);
        parts
    }
}

fn tone(state: State) -> Tone {
    match state {
        State::Ready => Tone::Good,
        State::Underway => Tone::Underway,
        State::Trouble => Tone::Bad,
    }
}

fn module_parts(modules: &[ModuleRow], manner: Manner) -> Vec<String> {
    let mut headings = vec!["MODULE", "STATE", "LOADED", "KERNEL", "IMAGE", "NODES"];
    if manner.namespaces {
        headings.insert(0, "NAMESPACE");
    }
    if manner.wide {
        headings.extend(["CHANGING", "REFERENCE"]);
    }
    let blocks: Vec<_> = modules.iter().map(|module| module_block(module, manner)).collect();
    render(&headings, &blocks, manner.look_of_notes())
}

impl Manner {
    /// Wide messages are not cut.
    fn look_of_notes(self) -> Look {
        if self.wide { self.look.endless() } else { self.look }
    }
}

fn module_block(module: &ModuleRow, manner: Manner) -> Block {
    let mut kernels: Vec<Option<&KernelRow>> = module.kernels.iter().map(Some).collect();
    if kernels.is_empty() {
        kernels.push(None);
    }
    let rows = kernels.into_iter().enumerate().map(|(place, kernel)| {
        let is_first = place == 0;
        let only_first = |cell: Cell| if is_first { cell } else { Cell::new("") };
        let mut row = Vec::new();
        if manner.namespaces {
            row.push(only_first(Cell::new(&module.namespace)));
        }
        row.push(only_first(Cell::new(&module.module)));
        row.push(only_first(Cell::toned(module.state.word(), tone(module.state))));
        row.push(only_first(Cell::new(format!("{}/{}", module.loaded, module.nodes))));
        if let Some(kernel) = kernel {
            row.push(Cell::new(&kernel.kernel));
            row.push(Cell::toned(&kernel.phase, tone(kernel.state)));
            row.push(Cell::new(format!("{}/{}", kernel.loaded, kernel.nodes)));
        } else {
            row.extend(["", "", ""].map(Cell::new));
        }
        if manner.wide {
            row.push(only_first(Cell::new(module.unavailable.to_string())));
            row.push(Cell::new(kernel.and_then(|kernel| kernel.image.as_deref()).unwrap_or_default()));
        }
        row
    });
    let note = (module.state != State::Ready).then(|| said(&module.reason, &module.message));
    Block { rows: rows.collect(), note }
}

fn said(reason: &str, message: &str) -> String {
    if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") }
}

fn node_parts(nodes: &[NodeRow], manner: Manner) -> Vec<String> {
    if nodes.is_empty() {
        return vec!["No node has it, or should have it.\n".to_owned()];
    }
    let blocks: Vec<_> = nodes.iter().map(|node| node_block(node, manner)).collect();
    render(&["NODE", "KERNEL", "DRIVER", "STATE", "REASON"], &blocks, manner.look_of_notes())
}

fn node_block(node: &NodeRow, manner: Manner) -> Block {
    let image = node.image.as_deref().unwrap_or("-");
    // Of a reference its last part tells it from the others; wide, all of it is there.
    let image = if manner.wide { image } else { image.rsplit('/').next().unwrap_or(image) };
    let driver = match &node.version {
        Some(version) => format!("{image} ({version})"),
        None => image.to_owned(),
    };
    let row = vec![
        Cell::new(&node.node),
        Cell::new(&node.kernel),
        Cell::new(driver),
        Cell::toned(node.state.word(), tone(node.state)),
        Cell::new(&node.reason),
    ];
    let is_told = !node.message.is_empty() && (node.state != State::Ready || manner.wide);
    Block { rows: vec![row], note: is_told.then(|| node.message.clone()) }
}
