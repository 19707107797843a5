//! What a kernel is asked: a verdict holds as long as its question is the same.

use tenon_api::kernel_facts::Source;
use tenon_kmod::predict::Enforcement;
use tenon_order::Digest;

use crate::resolve::LoadSettings;

/// Digits of either half of a question.
const DIGITS: usize = 32;

/// Facts about one build of a kernel, known to be there: enough to know whether a verdict is still about them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Evidence {
    /// The build; none for facts that count for every build of the release.
    pub build_id: Option<String>,
    /// Who says so.
    pub source: Source,
    /// Another text for other facts.
    pub version: String,
}

/// What is to be known of the nodes beside their kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether other drivers on the node may offer symbols that this one needs: one that nobody offers is then not known to be
    /// missing.
    pub others: bool,
    /// What the kernels do about modules without a good signature, as the administrator says.
    pub enforcement: Enforcement,
    /// Which certificates the kernels trust: another text for others. Empty where nobody says.
    pub trusted: String,
}

impl Surroundings {
    /// For the hash of a question.
    fn text(&self) -> String {
        let Self { others, enforcement, trusted } = self;
        if (*enforcement, trusted.as_str()) == (Enforcement::Permissive, "") {
            return others.to_string();
        }
        format!("{others} {enforcement:?} {trusted}")
    }
}

/// What is asked: how which modules are to be loaded, and by which facts that is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question(String);

impl Question {
    /// The question whether the kernel of `evidence` loads `bundle` with these settings.
    pub fn new(bundle: &str, load: &LoadSettings, evidence: &Evidence, around: &Surroundings) -> Self {
        let judged = format!("{evidence:?} {}", around.text());
        let judged = Digest::of(judged.as_bytes()).hex();
        Self(format!("{}{}", Self::settings_of(bundle, load), cut(&judged)))
    }

    /// The part of a question that is about what is loaded.
    pub fn settings_of(bundle: &str, load: &LoadSettings) -> String {
        let LoadSettings {
            module,
            parameters,
            loading_order,
            in_tree_to_remove,
            // Both decide about the bundle's files, which its digest names.
            dir_name: _,
            firmware_path: _,
        } = load;
        let asked = format!("{bundle} {module:?} {parameters:?} {loading_order:?} {in_tree_to_remove:?}");
        cut(&Digest::of(asked.as_bytes()).hex()).to_owned()
    }

    /// Whether a question is about what [`Self::settings_of`] has given.
    pub fn is_about(question: &str, settings: &str) -> bool {
        question.starts_with(settings)
    }

    /// Whether a verdict's question is this one.
    pub fn is_asked(&self, question: &str) -> bool {
        self.0 == question
    }

    /// The question, for a status.
    pub fn into_text(self) -> String {
        self.0
    }
}

fn cut(hex: &str) -> &str {
    hex.get(..DIGITS).unwrap_or(hex)
}
