import Graft

/// `graft devices`
enum DevicesCommand {
    static let command = Command(
        name: "devices",
        summary: "List every device: selector, memory, driver, and why one cannot be used.",
        examples: ["graft devices", "graft devices --json"],
        groups: [ArgumentGroup("Output", [Shared.json])],
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let (devices, note) = Device.all()
        if values[Shared.json] {
            let entries = devices.map { listing -> JSON in
                let device = listing.description
                return [
                    "selector": .string(device.selector), "name": .string(device.name),
                    "platform": .string(device.platform), "type": .string(device.type),
                    "driver": .string(device.driverVersion), "memory_bytes": .integer(device.memoryByteCount),
                    "compute_units": .integer(device.computeUnitCount), "kernels": .string(device.kernelClass),
                    "accepted": .boolean(listing.rejection == nil), "reason": .optional(listing.rejection),
                ]
            }
            try Console.result(JSON.object([("devices", .array(entries)), ("note", .optional(note))]).pretty() + "\n")
            return
        }
        var table = Table([
            Table.Column(title: "selector"), Table.Column(title: "device", isFlexible: true),
            Table.Column(title: "type"),
            Table.Column(title: "units", alignment: .right), Table.Column(title: "memory", alignment: .right),
            Table.Column(title: "kernels"), Table.Column(title: "platform, driver", isFlexible: true),
        ])
        for device in devices.map(\.description) {
            table.rows.append([
                device.selector, device.name, device.type, "\(device.computeUnitCount)",
                formatBytes(device.memoryByteCount), device.kernelClass,
                [device.platform, device.driverVersion].filter { !$0.isEmpty }.joined(separator: ", "),
            ])
        }
        var text = table.text()
        for listing in devices {
            if let rejection = listing.rejection {
                text += "\(listing.description.selector) cannot be used: \(rejection)\n"
            }
        }
        if let note { text += "note: \(note)\n" }
        try Console.result(text)
    }
}
