//! The `tern` command: a program on top of the library, as any user's would be.

fn main() {
    println!("tern {}", env!("CARGO_PKG_VERSION"));
}
