"""What a release is made by: version, chart, bills of materials, licences, audit. See docs/guide/releasing.md."""
