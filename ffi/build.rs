//! Finds DPDK, compiles the shim and generates the bindings.
//!
//! What comes out runs on every x86-64-v2 machine, whatever this one is: the instruction set is named here, and
//! the one that pkg-config reports is not taken over (a DPDK built on its own machine reports `native`).

use std::path::PathBuf;
use std::process::exit;
use std::{env, fs};

/// The libraries that are called directly. Drivers are plugins that EAL loads by itself, and what these need in
/// turn the linker finds in them.
const LIBRARIES: [&str; 5] = ["rte_eal", "rte_mempool", "rte_mbuf", "rte_ethdev", "rte_vhost"];

/// The exported functions that are called without the shim.
const FUNCTIONS: [&str; 14] = [
    "rte_dev_(probe|remove)",
    "rte_eal_(init|cleanup|get_runtime_dir)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|close|configure|count_avail|get_port_by_name|info_get|start|stop)",
    "rte_eth_(link_get_nowait|macaddr_get|promiscuous_enable|stats_get|rx_queue_setup|tx_queue_setup)",
    "rte_eth_dev_socket_id",
    "rte_mbuf_dynflag_register_bitnum",
    "rte_mempool_(avail_count|create_empty|free|in_use_count|obj_iter|populate_default|set_ops_byname)",
    "rte_pktmbuf_(free_bulk|init|pool_init)",
    "rte_strerror",
    "rte_thread_(register|unregister)",
    "rte_vhost_driver_(callback_register|disable_features|[gs]et_protocol_features|register|start|unregister)",
    "rte_vhost_(dequeue_burst|enable_guest_notification|enqueue_burst|rx_queue_count|set_vring_base|vring_call)",
    "rte_vhost_extern_callback_register",
    "rte_vhost_get_(ifname|mem_table|negotiated_features|vhost_vring|vring_base)",
];

/// With the feature `lookup`.
const LOOKUP_LIBRARIES: [&str; 2] = ["rte_fib", "rte_hash"];
const LOOKUP_FUNCTIONS: [&str; 2] = [
    "rte_hash_(add_key_data|create|free|lookup_data|lookup_bulk_data)",
    "rte_fib_(add|create|free|lookup_bulk)",
];

/// Types that are only ever pointed to, or that Rust can't lay out (packed and aligned at once).
const OPAQUE: [&str; 9] = [
    "rte_arp_.*",
    "rte_device",
    "rte_ether_.*",
    "rte_eth_dev_portconf",
    "rte_l2tpv2_.*",
    "rte_mbuf",
    "rte_mempool",
    "vring_.*",
    "rte_mempool_memhdr",
];

fn main() {
    if let Err(message) = build() {
        eprintln!("error: {message}");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    for file in ["build.rs", "shim/dpdk.h", "shim/dpdk.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let dpdk = pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .env_metadata(true)
        .probe("libdpdk")
        .map_err(|error| {
            format!(
                "DPDK 22.11 or newer was not found. On Debian and Ubuntu install the packages libdpdk-dev and \
                 pkg-config; for a DPDK of your own add its folder with libdpdk.pc to PKG_CONFIG_PATH.\n{error}"
            )
        })?;

    let mut flags = vec!["-include".to_owned(), "rte_config.h".to_owned()];
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        flags.push("-march=x86-64-v2".to_owned());
    }
    flags.extend(dpdk.include_paths.iter().map(|path| format!("-I{}", path.display())));

    let lookup = env::var_os("CARGO_FEATURE_LOOKUP").is_some();
    if lookup {
        flags.push("-DWEFT_LOOKUP".to_owned());
    }

    let mut shim = cc::Build::new();
    shim.file("shim/dpdk.c").std("gnu11").warnings(true).define("ALLOW_EXPERIMENTAL_API", None);
    // DPDK's headers are not free of warnings; they are not ours to fix.
    shim.flag("-Wno-unused-parameter").flag("-Wno-sign-compare");
    for flag in &flags {
        shim.flag(flag);
    }
    shim.try_compile("weft_dpdk").map_err(|error| format!("the shim over DPDK does not compile: {error}"))?;

    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    // The linker drops what nothing refers to: rustc passes --as-needed.
    for library in LIBRARIES.iter().chain(LOOKUP_LIBRARIES.iter().filter(|_| lookup)) {
        println!("cargo:rustc-link-lib=dylib={library}");
    }

    let mut bindings = bindgen::Builder::default()
        .header("shim/dpdk.h")
        .clang_args(&flags)
        .clang_arg("-DALLOW_EXPERIMENTAL_API")
        .allowlist_function("weft_.*")
        .allowlist_type("weft_.*")
        .allowlist_type("rte_pktmbuf_pool_private")
        .allowlist_var("WEFT_.*")
        .prepend_enum_name(false)
        .derive_default(false)
        .layout_tests(false)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .rust_target(bindgen::RustTarget::stable(85, 0).map_err(|error| error.to_string())?);
    for function in FUNCTIONS.iter().chain(LOOKUP_FUNCTIONS.iter().filter(|_| lookup)) {
        bindings = bindings.allowlist_function(function);
    }
    for name in OPAQUE {
        bindings = bindings.opaque_type(name);
    }
    let bindings = bindings.generate().map_err(|error| {
        format!("no bindings for DPDK: {error} (bindgen needs libclang: on Debian the package libclang-dev)")
    })?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo has set no OUT_DIR")?).join("dpdk.rs");
    fs::write(&out, bindings.to_string()).map_err(|error| format!("{}: {error}", out.display()))
}
