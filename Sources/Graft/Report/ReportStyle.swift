/// The page's style sheet.
enum ReportStyle {
    /// Colours in both schemes have a contrast of at least 4.5 to 1 where they are text, 3 to 1 where they are lines.
    static let sheet = """
        :root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--text:#1b1f24;--soft:#57606a;--edge:#d8dee4;\
        --train:#1f6feb;--val:#bc4c00;--rate:#6639ba;--right:31,111,235;--wrong:207,80,20;--on:#fff;\
        --c-trainable:#0f6d31;--b-trainable:#d3f3dc;--c-passing:#7d4e00;--b-passing:#fdf0c4;\
        --c-kept:#0a5ca8;--b-kept:#dbeefe;--c-frozen:#4a535c;--b-frozen:#e7eaee;--bad:#b4232a}
        @media(prefers-color-scheme:dark){:root{--page:#0d1117;--card:#161b22;--text:#e6edf3;--soft:#9aa5b1;\
        --edge:#30363d;--train:#6cb0ff;--val:#ff9d57;--rate:#c297ff;--right:88,166,255;--wrong:255,140,75;--on:#0d1117;\
        --c-trainable:#7ee2a0;--b-trainable:#12361f;--c-passing:#f2cc60;--b-passing:#3a2d06;\
        --c-kept:#8cc8ff;--b-kept:#0e2f4f;--c-frozen:#b3bcc5;--b-frozen:#272e36;--bad:#ff8b84}}
        *{box-sizing:border-box}
        body{margin:0;background:var(--page);color:var(--text);\
        font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
        main{max-width:1120px;margin:0 auto;padding:24px 16px 48px}
        h1{font-size:26px;line-height:1.25;margin:0;overflow-wrap:anywhere}
        h2{font-size:18px;margin:0 0 4px}
        p{margin:4px 0}
        a{color:var(--train)}
        .soft,.xname,figcaption .key{color:var(--soft)}
        header p{color:var(--soft);overflow-wrap:anywhere}
        section{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:18px 20px;margin-top:16px}
        .pill{display:inline-block;border-radius:999px;padding:1px 10px;font-size:13px;font-weight:600;white-space:nowrap}
        .trainable,.finished{color:var(--c-trainable);background:var(--b-trainable)}
        .passing,.interrupted{color:var(--c-passing);background:var(--b-passing)}
        .kept,.running{color:var(--c-kept);background:var(--b-kept)}
        .frozen{color:var(--c-frozen);background:var(--b-frozen)}
        .failed{color:var(--bad);background:var(--b-frozen)}
        h1 .pill{vertical-align:4px;margin-left:8px}
        .cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin-top:16px}
        .cards div{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:12px 16px}
        .cards b{display:block;font-size:22px;line-height:1.3;white-space:nowrap;font-variant-numeric:tabular-nums}
        .cards span{color:var(--soft);font-size:13px}
        .message{border-color:var(--bad);color:var(--bad);overflow-wrap:anywhere}
        pre{margin:12px 0 0;padding:10px 12px;background:var(--page);border:1px solid var(--edge);border-radius:8px;\
        white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
        figure{margin:0}
        .charts{display:grid;grid-template-columns:1fr 1fr;gap:20px 32px}
        figcaption{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline;margin-bottom:10px}
        .key{font-size:13px;white-space:nowrap}
        .key svg{width:24px;height:10px;margin-right:5px}
        .plot{position:relative;height:260px;margin:0 14px 22px 52px}
        .small .plot{height:130px}
        .plot>svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
        .plot span{position:absolute;font-size:12px;line-height:16px;color:var(--soft);white-space:nowrap;\
        font-variant-numeric:tabular-nums}
        .plot .y{right:100%;transform:translateY(-50%);padding-right:8px}
        .plot .x{top:100%;transform:translateX(-50%);padding-top:5px}
        .plot .note{padding:0 5px;margin-left:3px;background:var(--card);border-radius:4px;color:var(--text);\
        max-width:45%;overflow:hidden;text-overflow:ellipsis}
        .plot .left{transform:translateX(-100%);margin-left:-3px}
        .xname{font-size:12px;text-align:right;margin-right:14px}
        path{fill:none;vector-effect:non-scaling-stroke}
        .grid{stroke:var(--edge);stroke-width:1}
        .mark{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:4 3}
        .line{stroke-width:2;stroke-linejoin:round}
        .dot{stroke-width:7;stroke-linecap:round}
        path.train,path.epoch{stroke:var(--train)}
        path.val{stroke:var(--val)}
        path.rate,path.average{stroke:var(--rate)}
        .line.train{stroke-opacity:.65}
        .line.epoch{stroke-dasharray:5 4;stroke-width:1.5}
        path.band{stroke:none;fill:var(--train);fill-opacity:.16}
        .scroll{overflow-x:auto;margin-top:10px}
        .scroll:focus-visible,summary:focus-visible{outline:2px solid var(--train);outline-offset:2px}
        table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
        .wide{width:100%}
        th,td{padding:4px 10px;text-align:right;border-bottom:1px solid var(--edge);white-space:nowrap}
        th{font-weight:600;color:var(--soft)}
        tbody th{color:var(--text)}
        th:first-child,td:first-child,.text{text-align:left}
        .name{max-width:260px;overflow:hidden;text-overflow:ellipsis}
        .matrix{border-collapse:separate;border-spacing:2px}
        .matrix td,.matrix th{border:0;border-radius:4px;text-align:center;padding:6px 8px;min-width:38px}
        .matrix tbody th,.matrix .corner{text-align:right;max-width:150px;overflow:hidden;text-overflow:ellipsis}.matrix .corner{white-space:normal;font-weight:400;line-height:1.2}
        .matrix thead th{max-width:96px;overflow:hidden;text-overflow:ellipsis}
        td.r{background:rgba(var(--right),var(--v))}
        td.w{background:rgba(var(--wrong),var(--v))}
        td.strong{color:var(--on);font-weight:600}
        td.zero{color:var(--soft)}
        .heat{position:relative;max-width:560px;margin:12px 0 26px 40px;aspect-ratio:1;border:1px solid var(--edge)}
        .heat svg{width:100%;height:100%;display:block}
        .heat span{position:absolute;font-size:12px;line-height:16px;color:var(--soft)}
        .heat .y{right:100%;transform:translateY(-50%);padding-right:6px}
        .heat .x{top:100%;transform:translateX(-50%);padding-top:4px}
        path.hr{fill:rgb(var(--right))}
        path.hw{fill:rgb(var(--wrong))}
        .columns{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:12px 32px}
        .bar{display:inline-block;width:56px;height:8px;border-radius:4px;background:var(--b-frozen);margin-left:8px}
        .bar i{display:block;height:8px;border-radius:4px;background:var(--train)}
        .gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:14px;margin-top:12px}
        .gallery figure{min-width:0;font-size:13px;line-height:1.35;overflow-wrap:anywhere}
        .gallery img,.gallery .none{width:100%;height:auto;aspect-ratio:1;border-radius:8px;display:flex;object-fit:cover;\
        background:var(--b-frozen);align-items:center;justify-content:center;color:var(--soft);text-align:center}
        .gallery .wrong{color:var(--val);font-weight:600}
        .gallery .path{display:block;color:var(--soft);font-size:12px}
        dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 16px;margin:10px 0 0}
        dt{color:var(--soft)}
        dd{margin:0;overflow-wrap:anywhere}
        details{margin-top:10px}
        summary{cursor:pointer;color:var(--train);font-weight:600}
        footer{color:var(--soft);font-size:13px;margin-top:16px}
        @media(max-width:760px){main{padding:16px 10px 32px}section{padding:14px 12px}.charts,.columns{\
        grid-template-columns:minmax(0,1fr)}.plot{height:210px;margin-left:46px}h1{font-size:21px}\
        .cards{grid-template-columns:1fr 1fr;gap:8px}.cards div{padding:10px 12px}.cards b{font-size:19px}\
        th,td{padding:4px 7px}thead th{white-space:normal}.matrix td,.matrix th{padding:5px 4px;min-width:30px}.name{max-width:130px}\
        .matrix tbody th,.matrix .corner{max-width:96px}.gallery{grid-template-columns:1fr 1fr 1fr;gap:10px}\
        dl{grid-template-columns:minmax(0,1fr)}dd{margin-bottom:6px}}
        @media print{section{break-inside:avoid}}
        """
}
