//! What is predicted of a load is what the kernel does. `make matrix` shows the same for more modules on more kernels.

use tenon_kmod::predict::Enforcement;
use tenon_lab::setup::Supplies;
use tenon_test_kernel::cases::Size;
use tenon_test_kernel::matrix;
use tenon_test_kernel::report::Report;
use tenon_test_kernel::shelf::Shelf;

#[tokio::test]
async fn what_is_predicted_of_a_load_is_what_the_kernel_does() {
    let supplies = Supplies::get().unwrap();
    let shelves: Vec<Shelf> = supplies.kernels().iter().cloned().map(Shelf::fill).collect();
    let size = Size { own: 6, foreign: 6, seed: 1 };
    let mut report = Report::default();
    for on in &shelves {
        matrix::run(on, &shelves, Enforcement::Permissive, size, &mut report).await;
    }
    println!("{report}");
    assert!(report.tried() >= 300, "{} loads are too few to show anything", report.tried());
    assert!(report.disagreements().is_empty(), "{} predictions are wrong", report.disagreements().len());
}
