//! A guest that only tries loads says of each what the kernel says.

use std::fs;

use tenon_lab::drivers::{self, Driver};
use tenon_lab::kernel::Origin;
use tenon_lab::setup::Supplies;
use tenon_lab::trial::{Load, Trial};

fn load(file: &[u8]) -> Load<'_> {
    Load { file, parameters: "", flags: 0 }
}

#[tokio::test]
async fn each_load_of_a_trial_is_told_with_the_kernels_words_and_undone_after_its_sequence() {
    let supplies = Supplies::get().unwrap();
    let kernel = supplies.kernel(Origin::Backports).unwrap();
    let read = |driver| -> Vec<Vec<u8>> {
        let files = drivers::build(kernel, Driver::into(driver)).unwrap().files();
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    };
    let [core, client] = read(Driver::Pair).try_into().unwrap();
    let simple = read(Driver::SimpleKmod).remove(0);
    let mut trial = Trial::new();
    trial.sequence([load(&core), load(&client), load(&core)]);
    trial.sequence([load(&client), load(b"no module")]);
    trial.sequence([Load { parameters: "count=many", ..load(&simple) }]);
    let folder = tempfile::tempdir().unwrap();
    let outcomes = trial.run(kernel, &[], folder.path()).await.unwrap();

    let errnos = |at: usize| outcomes[at].tried.iter().map(|tried| tried.errno).collect::<Vec<_>>();
    assert_eq!(errnos(0), [0, 0, 17], "{outcomes:?}");
    assert_eq!(outcomes[0].tried[1].loaded, ["lab_client", "lab_core"]);
    // Without what the sequence before had loaded.
    assert_eq!(errnos(1), [2, 8], "{outcomes:?}");
    let said = &outcomes[1].tried[0].log;
    assert!(said.iter().any(|line| line.contains("Unknown symbol lab_core_answer (err -2)")), "{said:?}");
    assert_eq!(errnos(2), [22], "{outcomes:?}");
    assert!(
        outcomes[2].tried[0].log.iter().any(|line| line.contains("`many' invalid for parameter `count'"))
    );
    assert!(outcomes.iter().all(|outcome| outcome.left.is_empty()), "{outcomes:?}");
}
