// What a user of the library names without importing more than `Graft`: shapes, tensors, images, device descriptions,
// errors.
@_exported public import GraftGraph
@_exported public import GraftTensor
@_exported public import GraftVision
