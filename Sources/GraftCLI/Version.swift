/// The version that `graft --version` prints and CHANGELOG.md describes.
let graftVersion = "0.1.0"
