#!/usr/bin/env python3
"""Pictures of a page or an SVG in headless Chromium: 1280 and 390 pixels wide, light and dark.

    python Tests/Acceptance/screenshots.py run/report.html OUT [--widths 1280,390] [--schemes light,dark]

Needs Chromium on PATH and the package websocket-client. Writes OUT/NAME-WIDTH-SCHEME.png and fails when the page is wider
than the window, asks for anything outside itself or reports an error. What the pictures show is for the eye.
"""
import argparse, base64, json, pathlib, re, shutil, subprocess, sys, tempfile

import websocket


class Page:
    def __init__(self, address):
        self.socket = websocket.create_connection(address, timeout=120, suppress_origin=True)
        self.number = 0
        self.events = []

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("out")
    parser.add_argument("--widths", default="1280,390")
    parser.add_argument("--schemes", default="light,dark")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        sys.exit("no Chromium on PATH")
    file = pathlib.Path(options.file).resolve()
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    problems = []
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.PIPE, text=True)
        try:
            address = None
            for line in process.stderr:
                match = re.search(r"ws://\S+", line)
                if match:
                    address = match.group(0)
                    break
            if not address:
                sys.exit("Chromium did not start")
            page = Page(address)
            target = page.call("Target.createTarget", url="about:blank")["targetId"]
            session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ["Page", "Network", "Log", "Runtime"]:
                page.call(f"{domain}.enable", session)
            for width in map(int, options.widths.split(",")):
                for scheme in options.schemes.split(","):
                    page.events.clear()
                    page.call("Emulation.setDeviceMetricsOverride", session, width=width, height=900,
                              deviceScaleFactor=1 if width > 600 else 2, mobile=width < 600)
                    page.call("Emulation.setEmulatedMedia", session,
                              features=[{"name": "prefers-color-scheme", "value": scheme}])
                    page.call("Page.navigate", session, url=file.as_uri())
                    ready = "new Promise(r => document.readyState == 'complete' ? r(1) : addEventListener('load', () => r(1)))"
                    page.call("Runtime.evaluate", session, expression=ready, awaitPromise=True)
                    size = page.call("Page.getLayoutMetrics", session)["cssContentSize"]
                    if size["width"] > width and file.suffix == ".html":
                        problems.append(f"{width} {scheme}: the page is {size['width']} pixels wide")
                    for event in page.events:
                        if event["method"] == "Network.requestWillBeSent":
                            url = event["params"]["request"]["url"]
                            if not url.startswith("data:") and url != file.as_uri():
                                problems.append(f"{width} {scheme}: asks for {url}")
                        if event["method"] == "Log.entryAdded":
                            problems.append(f"{width} {scheme}: {event['params']['entry']['text']}")
                    picture = page.call("Page.captureScreenshot", session, captureBeyondViewport=True,
                                        clip={"x": 0, "y": 0, "width": max(width, size["width"]),
                                              "height": size["height"], "scale": 1})
                    path = out / f"{file.stem}-{width}-{scheme}.png"
                    path.write_bytes(base64.b64decode(picture["data"]))
                    print(f"{path}: {size['width']} × {size['height']}")
            page.socket.close()
        finally:
            process.terminate()
            process.wait(30)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
