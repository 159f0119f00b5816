fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("mkfs") => {}
        Some("status") => {}
        _ => std::process::exit(2),
    }
}
