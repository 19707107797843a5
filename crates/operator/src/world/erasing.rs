//! Repositories out of which an image is being deleted: until that has ended, no image in them is looked for. Who found one there
//! a moment before it went would take it for there ever after.

use super::World;

/// Something is being deleted out of a repository, until this is dropped.
#[derive(Debug)]
pub struct Erasing<'w> {
    world: &'w World,
    repository: String,
}

impl World {
    /// Something is about to be deleted out of this repository (`registry/name`). To be called before it is asked whether anything
    /// needs it: who needs it from then on looks for it afterwards.
    pub fn erase(&self, repository: String) -> Erasing<'_> {
        super::lock(&self.erasing).insert(repository.clone());
        Erasing { world: self, repository }
    }

    /// Whether something is being deleted out of this repository.
    pub fn is_erasing(&self, repository: &str) -> bool {
        super::lock(&self.erasing).contains(repository)
    }
}

impl Drop for Erasing<'_> {
    fn drop(&mut self) {
        super::lock(&self.world.erasing).remove(&self.repository);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depot::Assignments;

    #[test]
    fn a_repository_is_left_alone_until_the_deletion_has_ended_however_it_ends() {
        let world = World::new(Assignments::default());
        let erasing = world.erase("registry.test/gauge".to_owned());
        assert!(world.is_erasing("registry.test/gauge") && !world.is_erasing("registry.test/anvil"));
        drop(erasing);
        assert!(!world.is_erasing("registry.test/gauge"));
    }
}
