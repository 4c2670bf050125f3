import CDemoWeights

/// The demo network's file, in the binary itself.
enum EmbeddedWeights {
    /// The whole safetensors file.
    static var bytes: [UInt8] {
        Array(UnsafeBufferPointer(start: graft_demo_weights(), count: graft_demo_weights_count()))
    }
}
