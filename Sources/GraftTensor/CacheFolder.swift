import Foundation

/// Where Graft keeps what can be made again.
package enum CacheFolder {
    /// `$GRAFT_CACHE/NAME`, else `$XDG_CACHE_HOME/graft/NAME`, else `~/.cache/graft/NAME`; nil when none is known.
    package static func url(_ name: String) -> URL? {
        let environment = ProcessInfo.processInfo.environment
        if let path = environment["GRAFT_CACHE"], !path.isEmpty { return URL(filePath: path).appending(path: name) }
        // The base-directory specification ignores relative paths.
        if let path = environment["XDG_CACHE_HOME"], path.hasPrefix("/") {
            return URL(filePath: path).appending(path: "graft/" + name)
        }
        guard let home = environment["HOME"], home.hasPrefix("/") else { return nil }
        return URL(filePath: home).appending(path: ".cache/graft/" + name)
    }
}
