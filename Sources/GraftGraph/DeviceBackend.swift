import GraftTensor

/// What a device is, as `graft devices` prints it.
public struct DeviceDescription: Hashable, Sendable {
    /// What selects it on the command line: `cpu` or `opencl:N`.
    public var selector: String
    /// The device's name as its driver gives it.
    public var name: String
    /// The platform or implementation.
    public var platform: String
    /// `CPU`, `GPU` or `accelerator`.
    public var type: String
    /// Driver or library version.
    public var driverVersion: String
    /// Bytes of device memory.
    public var memoryByteCount: Int
    /// Compute units or threads.
    public var computeUnitCount: Int
    /// Which family of kernels it runs: `swift-avx512`, `cpu-class`, `gpu-class` ….
    public var kernelClass: String

    /// Makes a description.
    public init(
        selector: String, name: String, platform: String, type: String, driverVersion: String, memoryByteCount: Int,
        computeUnitCount: Int, kernelClass: String
    ) {
        self.selector = selector
        self.name = name
        self.platform = platform
        self.type = type
        self.driverVersion = driverVersion
        self.memoryByteCount = memoryByteCount
        self.computeUnitCount = computeUnitCount
        self.kernelClass = kernelClass
    }
}

/// Why a device could not be used.
public enum DeviceError: Error, Hashable, Sendable, CustomStringConvertible {
    /// There is no such device; the message lists what there is.
    case unavailable(String)
    /// A plan or an allocation is larger than the device's memory.
    case outOfMemory(device: String, requestedByteCount: Int, availableByteCount: Int, advice: String)
    /// A kernel did not build: which file and options, and the first lines of the compiler's log.
    case buildFailed(device: String, source: String, options: String, log: String)
    /// A call of the driver failed: the call, its status by name, what to do next.
    case callFailed(device: String, call: String, status: String, advice: String)
    /// The host's data do not fit the value they are written to.
    case dataMismatch(String)
    /// The device cannot do what was asked.
    case unsupported(String)

    /// What, where, found against expected, next step.
    public var description: String {
        switch self {
        case .unavailable(let message), .dataMismatch(let message), .unsupported(let message): message
        case .outOfMemory(let device, let requested, let available, let advice):
            "\(device) has \(formatBytes(available)) of memory, the plan needs \(formatBytes(requested)). \(advice)"
        case .buildFailed(let device, let source, let options, let log):
            "kernel \(source) did not build on \(device) with options \"\(options)\":\n\(log)\nTry --device cpu."
        case .callFailed(let device, let call, let status, let advice):
            "\(call) failed on \(device): \(status). \(advice)"
        }
    }
}

/// `9.1 GiB`, `12.0 MiB`, `512 B`: how sizes are printed everywhere.
public func formatBytes(_ count: Int) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"]
    var value = Double(count)
    var unit = 0
    while value >= 1024, unit < units.count - 1 {
        value /= 1024
        unit += 1
    }
    if unit == 0 { return "\(count) B" }
    let tenths = Int((value * 10).rounded())
    return "\(tenths / 10).\(tenths % 10) \(units[unit])"
}

/// A device that runs programs. One owner at a time; not thread-safe.
package protocol DeviceBackend: AnyObject {
    var description: DeviceDescription { get }
    /// Bytes that a value takes in this backend's private layout, without alignment.
    func byteCount(of kind: ValueKind) -> Int
    /// Scratch bytes that a primitive needs while it runs; not kept between instructions.
    func workspaceByteCount(for primitive: Primitive) -> Int
    /// Where a range of channels of an activation lies in this backend's private layout, in bytes, if it lies in one
    /// piece that is laid out as an activation of those channels alone.
    func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int?
    /// Slots begin at multiples of this.
    var alignment: Int { get }
    /// No arena may be larger.
    var maximumArenaByteCount: Int { get }
    /// Allocates a plan's arenas, once. Contents are undefined, except that gradients and optimizer state are zero:
    /// what lies between the gradients of two parameters stays so.
    func allocate(_ plan: MemoryPlan) throws(DeviceError) -> any DeviceMemory
    /// Chooses algorithms, builds kernels, binds arguments. `program` is number `index` of those the plan was made for.
    func prepare(_ program: Program, index: Int, memory: any DeviceMemory) throws(DeviceError) -> any PreparedProgram
}

/// The arenas of one plan on one device.
package protocol DeviceMemory: AnyObject {
    var plan: MemoryPlan { get }
    /// Writes a host tensor of the slot's host shape, converting to the private layout. Waits for work in flight.
    func write(_ tensor: HostTensor, kind: ValueKind, to slot: Slot) throws(DeviceError)
    /// Reads a slot back in host layout. Waits for work in flight.
    func read(kind: ValueKind, from slot: Slot) throws(DeviceError) -> HostTensor
    /// Fills every arena with one byte; the conformance suite poisons memory with it.
    func fill(_ byte: UInt8) throws(DeviceError)
    /// An arena's raw bytes; the conformance suite checks guard regions with it.
    func rawBytes(arena: Int) throws(DeviceError) -> [UInt8]
}

/// A program bound to memory.
package protocol PreparedProgram: AnyObject {
    /// Enqueues all instructions; returns possibly before they are done.
    func run(_ constants: StepConstants) throws(DeviceError)
    /// Waits until everything enqueued is done.
    func synchronize() throws(DeviceError)
    /// Runs once with a wait after each instruction and returns seconds per instruction.
    func profile(_ constants: StepConstants) throws(DeviceError) -> [Double]
}
