//! Bugs of the kind that other operators had, to be planted on purpose: a simulator that does not find them finds nothing.

/// One bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The finalizer goes by what the watch has told, without a list from the quorum.
    FinalizerByStaleList,
    /// Nodes' objects are written whatever they are now.
    NoPreconditions,
    /// A removal is ordered once and then dropped, confirmed or not.
    DropsRemovals,
    /// A node that booted anew keeps its ready labels until its agent has reported.
    KeepsReadyLabels,
    /// The ready label is withdrawn after the order that unloads.
    LabelsLast,
    /// Node labels are written by name, whichever node has it.
    LabelsWithoutUid,
    /// The loader marks no load.
    WritesNoMark,
    /// A replica that has lost the lease goes on writing.
    DeposedLeaderWrites,
    /// The next order's generation is one above that of the order that is known, whatever the node holds.
    GenerationNotRaised,
    /// Orders are signed for the store that the node had first.
    SignsForFormerStore,
    /// What the order does not name is unloaded.
    UnloadsOnAbsence,
    /// The loader takes every order as one for the kernel that runs.
    IgnoresKernel,
    /// Turns to change a node are counted off the objects that are known; one that was given is not remembered.
    TurnsNotReserved,
    /// A new leader counts turns off what its watches have brought of nodes and their objects, without a list from the quorum. Labels
    /// are withdrawn before anything is changed and count as well, so what breaks first is often that they are true.
    TurnsByStaleList,
    /// Nobody waits for a plugin's pods before its driver goes.
    PluginsUnseen,
    /// A former version's `DaemonSet` stays when no node has it any more.
    FormerSetsStay,
    /// Device classes are written by force, whoever has made them.
    ClassesByForce,
    /// A preflight's status is told once.
    PreflightToldOnce,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::FinalizerByStaleList,
        Self::NoPreconditions,
        Self::DropsRemovals,
        Self::KeepsReadyLabels,
        Self::LabelsLast,
        Self::LabelsWithoutUid,
        Self::WritesNoMark,
        Self::DeposedLeaderWrites,
        Self::GenerationNotRaised,
        Self::SignsForFormerStore,
        Self::UnloadsOnAbsence,
        Self::IgnoresKernel,
        Self::TurnsNotReserved,
        Self::TurnsByStaleList,
        Self::PluginsUnseen,
        Self::FormerSetsStay,
        Self::ClassesByForce,
        Self::PreflightToldOnce,
    ];
}
