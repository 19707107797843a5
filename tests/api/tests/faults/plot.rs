//! What kinds of lives there are: by which stages each goes, on how many nodes, and how its operator is started.

use std::time::Duration;

use crate::life::Stage;

/// A kind of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plot {
    /// An image is found, another is signed, a node reboots.
    Signed,
    /// An image is built and signed by one Job, and anew when its Dockerfile is another. What is compiled from sources is made by the
    /// same writes: its Job's pod alone is another.
    Built,
    /// The registry denies the operator the images, and a node pulls them.
    Pulled,
    /// What was made is deleted from its registry once nothing needs it.
    CleanedUp,
    /// A driver with a device plugin is changed as a node's version label says, and a preflight looks on.
    Plugin,
}

impl Plot {
    /// Its stages, in order.
    pub(crate) fn stages(self) -> &'static [Stage] {
        match self {
            Self::Signed => &[Stage::Join, Stage::Load, Stage::Change, Stage::Reboot, Stage::Unload],
            Self::Built => &[Stage::Join, Stage::Make, Stage::Renew, Stage::Unload],
            Self::Pulled => &[Stage::Join, Stage::Pull, Stage::PullAnother, Stage::Unload],
            Self::CleanedUp => &[Stage::Join, Stage::Make, Stage::ComeBack, Stage::Leave, Stage::Unload],
            Self::Plugin => &[Stage::Join, Stage::Equip, Stage::Upgrade, Stage::Unload],
        }
    }

    /// The trees after which its nodes are named.
    pub(crate) fn nodes(self) -> &'static [&'static str] {
        match self {
            Self::Signed => &["oak", "yew"],
            Self::Built | Self::Pulled | Self::CleanedUp | Self::Plugin => &["oak"],
        }
    }

    /// What its operator is told beside what every operator here is.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Signed | Self::Plugin => &[],
            // Nobody tells of a ConfigMap that changes.
            Self::Built => &["--look-again=1"],
            Self::Pulled => &["--pull-through-nodes=pulls=yes"],
            // Long enough for a node to come back meanwhile.
            Self::CleanedUp => &["--unneeded-images=delete", "--unneeded-after=5s"],
        }
    }

    /// Whether Jobs publish what they make, so that the registry's faults are met as well.
    pub(crate) fn publishes(self) -> bool {
        matches!(self, Self::Built | Self::CleanedUp)
    }

    /// What a life takes on an idle machine beside its fault.
    pub(crate) fn cost(self) -> Duration {
        Duration::from_secs(match self {
            Self::Signed => 6,
            Self::Built | Self::Plugin => 8,
            Self::Pulled => 13,
            Self::CleanedUp => 15,
        })
    }

    /// What the lives that are picked may take together when not all are lived, beside the start and the undisturbed life.
    pub(crate) fn budget(self) -> Duration {
        Duration::from_secs(match self {
            Self::Signed => 20,
            Self::Built | Self::Pulled | Self::CleanedUp | Self::Plugin => 16,
        })
    }
}
