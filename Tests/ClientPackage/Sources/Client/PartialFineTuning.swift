import Graft

/// Recipe 1 of README.md, word for word (`Tests/LayeringTests` compares them).
func partialFineTuning() throws {
    var model = try Model.resNet18(weights: "resnet18.pth")
    model.freeze()
    try model.replaceHead(classCount: 10)
    let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.001, momentum: 0.9), device: .auto)
    var options = FitOptions()
    options.epochs = 10
    options.unfreezeAtEpoch = [(5, "layer3")]
    try trainer.fit(
        try ImageDataset(folder: "photos/train"), validation: try ImageDataset(folder: "photos/val"), options: options)
    try trainer.model().save("out.safetensors")
}
