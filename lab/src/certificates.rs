//! Keys, and certificates as short as certificates can be: newer kernels have little room for one more.

use std::path::Path;
use std::process::Command;

use crate::command::{self, CommandError};

/// Keys of RSA with 2048 bits, as `openssl genpkey` is asked for them.
pub const RSA_2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

/// Leaves `key.pem` and `certificate.pem`, of this number, in a folder, and the latter once more as `certificate.der`. Whoever signs the certificate has an elliptic key: its
/// signature is the shorter part.
pub fn make(folder: &Path, key: &[&str], number: &str) -> Result<(), CommandError> {
    let openssl = |arguments: &[&str]| {
        command::run(Command::new("openssl").args(arguments).current_dir(folder)).map(drop)
    };
    openssl(&[&["genpkey", "-out", "key.pem"], key].concat())?;
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "issuer.key"])?;
    openssl(&["req", "-new", "-x509", "-key", "issuer.key", "-subj", "/CN=i", "-out", "issuer.pem"])?;
    openssl(&["req", "-new", "-key", "key.pem", "-subj", "/CN=t", "-out", "request.pem"])?;
    let of = ["x509", "-req", "-in", "request.pem", "-CA", "issuer.pem", "-CAkey", "issuer.key"];
    openssl(&[&of[..], &["-set_serial", number, "-days", "9999", "-out", "certificate.pem"]].concat())?;
    openssl(&["x509", "-in", "certificate.pem", "-outform", "DER", "-out", "certificate.der"])
}
