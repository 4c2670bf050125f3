import Graft

/// Recipe 2 of README.md, word for word, and what it makes of the images.
func featureExtraction(_ model: Model, each: ([String: HostTensor]) -> Void) throws {
    let images = try ImageDataset(folder: "photos/train")
    let extractor = try FeatureExtractor(model, layers: ["avgpool", "layer3"], device: .auto)
    let loader = BatchLoader(dataset: images, order: Array(0..<images.count), preprocessing: model.preprocessing)
    while let batch = try loader.next() {
        let features = try extractor.features(ofPixels: batch.pixels, count: batch.count)
        each(features)
    }
}
