//! The registry serves with and without TLS, and asks for the password when it has one.

use tenon_lab::command::CommandError;
use tenon_lab::control_plane::Pki;
use tenon_lab::dir::LabDir;
use tenon_lab::registry::{Protection, Registry, User};
use tenon_lab::setup::Supplies;

/// The status of a request by the machine's curl.
fn status(arguments: &[&str]) -> Result<String, CommandError> {
    let quiet = ["-s", "-o", "/dev/null", "-w", "%{http_code}"];
    tenon_lab::command::text(std::process::Command::new("curl").args(quiet).args(arguments))
}

#[tokio::test]
async fn a_protected_registry_asks_for_certificate_and_password() {
    let supplies = Supplies::get().unwrap();
    let dir = LabDir::create().unwrap();
    let pki = Pki::create(&dir.path().join("pki")).unwrap();
    let tls = pki.server("registry", &["127.0.0.1", "localhost"]).unwrap();
    let user = User { name: "puller".into(), password: "secret".into() };
    let protection = Protection { tls: Some(tls), user: Some(user), keeps: false };
    let mut registry = Registry::start(&supplies, dir.path(), "closed", &protection).await.unwrap();
    let url = format!("https://{}/v2/", registry.host());
    let ca = pki.ca_cert().display().to_string();
    assert_eq!(status(&["--cacert", &ca, &url]).unwrap(), "401");
    assert_eq!(status(&["--cacert", &ca, "-u", "puller:wrong", &url]).unwrap(), "401");
    assert_eq!(status(&["--cacert", &ca, "-u", "puller:secret", &url]).unwrap(), "200");
    registry.stop();
    registry.resume().await.unwrap();
    assert_eq!(status(&["--cacert", &ca, "-u", "puller:secret", &url]).unwrap(), "200");

    let open = Registry::start(&supplies, dir.path(), "open", &Protection::default()).await.unwrap();
    assert_eq!(status(&[&format!("http://{}/v2/", open.host())]).unwrap(), "200");
}
