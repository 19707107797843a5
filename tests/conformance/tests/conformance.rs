//! Kernel Module Management's contract, on a real API server: one module for each paragraph of our inventory of it, and a test for
//! each of its defects (`defect_01_…`), in which what happens is right.

#[cfg(test)]
#[path = "conformance/plugins.rs"]
mod plugins;
#[cfg(test)]
#[path = "conformance/s10_user_reports.rs"]
mod s10_user_reports;
#[cfg(test)]
#[path = "conformance/s1_1_module.rs"]
mod s1_1_module;
#[cfg(test)]
#[path = "conformance/s1_2_node_modules_config.rs"]
mod s1_2_node_modules_config;
#[cfg(test)]
#[path = "conformance/s1_5_preflight.rs"]
mod s1_5_preflight;
#[cfg(test)]
#[path = "conformance/s1_8_admission.rs"]
mod s1_8_admission;
#[cfg(test)]
#[path = "conformance/s1_8_operator_writes.rs"]
mod s1_8_operator_writes;
#[cfg(test)]
#[path = "conformance/s1_api.rs"]
mod s1_api;
#[cfg(test)]
#[path = "conformance/s2_10_pod_labels.rs"]
mod s2_10_pod_labels;
#[cfg(test)]
#[path = "conformance/s2_11_preflight.rs"]
mod s2_11_preflight;
#[cfg(test)]
#[path = "conformance/s2_15_defects.rs"]
mod s2_15_defects;
#[cfg(test)]
#[path = "conformance/s2_15_vanished.rs"]
mod s2_15_vanished;
#[cfg(test)]
#[path = "conformance/s2_1_module_reconciler.rs"]
mod s2_1_module_reconciler;
#[cfg(test)]
#[path = "conformance/s2_4_build_sign_events.rs"]
mod s2_4_build_sign_events;
#[cfg(test)]
#[path = "conformance/s2_6_node_events.rs"]
mod s2_6_node_events;
#[cfg(test)]
#[path = "conformance/s2_7_device_plugin.rs"]
mod s2_7_device_plugin;
#[cfg(test)]
#[path = "conformance/s2_8_dra.rs"]
mod s2_8_dra;
#[cfg(test)]
#[path = "conformance/s2_9_version_labels.rs"]
mod s2_9_version_labels;
#[cfg(test)]
#[path = "conformance/s3_exact_strings.rs"]
mod s3_exact_strings;
#[cfg(test)]
#[path = "conformance/s4_mapping_and_templates.rs"]
mod s4_mapping_and_templates;
#[cfg(test)]
#[path = "conformance/s8_metrics.rs"]
mod s8_metrics;
