//! Has the linker keep one copy of functions that are compiled to the same code, if the linker can do that. Generic
//! functions are often the same for several types.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const FOLD: &str = "-Wl,--icf=all";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // It would make stack traces of tests harder to read.
    if env::var("OPT_LEVEL").is_ok_and(|level| level != "0") && linker_can_fold().unwrap_or(false) {
        println!("cargo::rustc-link-arg-bins={FOLD}");
    }
}

/// Links an empty program with the linker that Cargo will use. rust-lld, which Rust brings along for Linux on x86-64,
/// and gold, lld and mold know the option. GNU ld and the linkers of other systems refuse it.
fn linker_can_fold() -> Option<bool> {
    let folder = PathBuf::from(env::var_os("OUT_DIR")?);
    let source = folder.join("empty.rs");
    std::fs::write(&source, "fn main() {}").ok()?;
    let mut rustc = Command::new(env::var_os("RUSTC")?);
    rustc.arg(source).arg("-o").arg(folder.join("empty"));
    rustc.arg("--target").arg(env::var_os("TARGET")?);
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut argument = OsString::from("linker=");
        argument.push(linker);
        rustc.arg("-C").arg(argument);
    }
    rustc.arg("-C").arg(format!("link-arg={FOLD}"));
    let status = rustc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    Some(status.ok()?.success())
}
