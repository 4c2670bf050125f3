#define _GNU_SOURCE
#include "CSystemSupport.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

// libcurl by its stable binary interface (libcurl-errors(3), symbols-in-versions): opened when something is downloaded, so
// that a start of Graft does not pay for it and a machine without it can do all the rest.

typedef void CURL;
typedef int CURLcode;
typedef struct curl_slist curl_slist;

enum {
    CURLOPT_WRITEDATA = 10001,
    CURLOPT_URL = 10002,
    CURLOPT_ERRORBUFFER = 10010,
    CURLOPT_WRITEFUNCTION = 20011,
    CURLOPT_USERAGENT = 10018,
    CURLOPT_LOW_SPEED_LIMIT = 19,
    CURLOPT_LOW_SPEED_TIME = 20,
    CURLOPT_HTTPHEADER = 10023,
    CURLOPT_HEADERDATA = 10029,
    CURLOPT_FOLLOWLOCATION = 52,
    CURLOPT_MAXREDIRS = 68,
    CURLOPT_CONNECTTIMEOUT = 78,
    CURLOPT_HEADERFUNCTION = 20079,
    CURLOPT_NOSIGNAL = 99,
    CURLOPT_PROTOCOLS = 181,
    CURLOPT_REDIR_PROTOCOLS = 182,
    CURLOPT_SUPPRESS_CONNECT_HEADERS = 265,

    CURLINFO_RESPONSE_CODE = 0x200002,

    CURL_GLOBAL_DEFAULT = 3,
    CURLPROTO_HTTP = 1,
    CURLPROTO_HTTPS = 2,
    CURL_ERROR_SIZE = 256,

    CURLE_OK = 0,
    CURLE_COULDNT_RESOLVE_PROXY = 5,
    CURLE_COULDNT_RESOLVE_HOST = 6,
    CURLE_COULDNT_CONNECT = 7,
    CURLE_HTTP2 = 16,
    CURLE_PARTIAL_FILE = 18,
    CURLE_WRITE_ERROR = 23,
    CURLE_OPERATION_TIMEDOUT = 28,
    CURLE_GOT_NOTHING = 52,
    CURLE_SEND_ERROR = 55,
    CURLE_RECV_ERROR = 56,
    CURLE_HTTP2_STREAM = 92,
};

static struct {
    CURLcode (*global_init)(long flags);
    CURL *(*easy_init)(void);
    CURLcode (*easy_setopt)(CURL *handle, int option, ...);
    CURLcode (*easy_perform)(CURL *handle);
    CURLcode (*easy_getinfo)(CURL *handle, int info, ...);
    void (*easy_cleanup)(CURL *handle);
    const char *(*easy_strerror)(CURLcode code);
    curl_slist *(*slist_append)(curl_slist *list, const char *text);
    void (*slist_free_all)(curl_slist *list);
    bool is_ready;
    char message[256];
} curl;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_library(void) {
    static const char *const names[] = {
        "libcurl.so.4", "libcurl-gnutls.so.4", "libcurl.4.dylib", "libcurl.dylib", "libcurl.so",
    };
    void *library = NULL;
    for (size_t i = 0; library == NULL && i < sizeof names / sizeof *names; i++) library = dlopen(names[i], RTLD_NOW);
    if (library == NULL) {
        const char *reason = dlerror();
        snprintf(
            curl.message, sizeof curl.message, "libcurl was not found (package libcurl4 on Debian and Ubuntu): %s",
            reason != NULL ? reason : "no reason given");
        return;
    }
    const struct {
        const char *name;
        void *place;
    } symbols[] = {
        {"curl_global_init", &curl.global_init},     {"curl_easy_init", &curl.easy_init},
        {"curl_easy_setopt", &curl.easy_setopt},     {"curl_easy_perform", &curl.easy_perform},
        {"curl_easy_getinfo", &curl.easy_getinfo},   {"curl_easy_cleanup", &curl.easy_cleanup},
        {"curl_easy_strerror", &curl.easy_strerror}, {"curl_slist_append", &curl.slist_append},
        {"curl_slist_free_all", &curl.slist_free_all},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (symbol == NULL) {
            snprintf(curl.message, sizeof curl.message, "libcurl has no %s", symbols[i].name);
            return;
        }
        memcpy(symbols[i].place, &symbol, sizeof symbol);
    }
    if (curl.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        snprintf(curl.message, sizeof curl.message, "libcurl cannot be initialised");
        return;
    }
    curl.is_ready = true;
}

static size_t take_header(char *bytes, size_t size, size_t count, void *context) {
    const graft_http_request *request = context;
    return request->on_header(request->context, bytes, size * count) ? size * count : 0;
}

static size_t take_body(char *bytes, size_t size, size_t count, void *context) {
    const graft_http_request *request = context;
    return request->on_body(request->context, bytes, size * count) ? size * count : 0;
}

static graft_http_status status_of(CURLcode code) {
    switch (code) {
        case CURLE_OK: return GRAFT_HTTP_OK;
        case CURLE_COULDNT_RESOLVE_PROXY:
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_COULDNT_CONNECT: return GRAFT_HTTP_UNREACHABLE;
        case CURLE_WRITE_ERROR: return GRAFT_HTTP_STOPPED;
        case CURLE_HTTP2:
        case CURLE_HTTP2_STREAM:
        case CURLE_PARTIAL_FILE:
        case CURLE_OPERATION_TIMEDOUT:
        case CURLE_GOT_NOTHING:
        case CURLE_SEND_ERROR:
        case CURLE_RECV_ERROR: return GRAFT_HTTP_CUT;
        default: return GRAFT_HTTP_REFUSED;
    }
}

graft_http_status graft_http_get(const graft_http_request *request, graft_http_outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    pthread_once(&once, open_library);
    if (!curl.is_ready) {
        snprintf(outcome->message, sizeof outcome->message, "%s", curl.message);
        return GRAFT_HTTP_NO_CLIENT;
    }
    CURL *handle = curl.easy_init();
    if (handle == NULL) {
        snprintf(outcome->message, sizeof outcome->message, "libcurl has no memory");
        return GRAFT_HTTP_NO_CLIENT;
    }
    curl_slist *headers = NULL;
    bool is_complete = true;
    for (size_t i = 0; i < request->header_count; i++) {
        curl_slist *longer = curl.slist_append(headers, request->headers[i]);
        if (longer == NULL) is_complete = false;
        if (longer != NULL) headers = longer;
    }
    char reason[CURL_ERROR_SIZE] = "";
    const long protocols = CURLPROTO_HTTP | CURLPROTO_HTTPS;
    CURLcode code = is_complete ? CURLE_OK : CURLE_SEND_ERROR;
#define SET(option, value)                                                                                             \
    if (code == CURLE_OK) code = curl.easy_setopt(handle, option, value)
    SET(CURLOPT_ERRORBUFFER, (char *)reason);
    SET(CURLOPT_URL, request->url);
    SET(CURLOPT_USERAGENT, request->user_agent);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROTOCOLS, protocols);
    // What was asked for over TLS does not come without it.
    SET(CURLOPT_REDIR_PROTOCOLS, request->allows_plain_redirects ? protocols : (long)CURLPROTO_HTTPS);
    SET(CURLOPT_FOLLOWLOCATION, 1L);
    SET(CURLOPT_MAXREDIRS, request->redirect_limit);
    SET(CURLOPT_CONNECTTIMEOUT, request->connect_timeout_seconds);
    SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
    SET(CURLOPT_LOW_SPEED_TIME, request->stall_timeout_seconds);
    SET(CURLOPT_HEADERFUNCTION, take_header);
    SET(CURLOPT_HEADERDATA, (void *)request);
    SET(CURLOPT_WRITEFUNCTION, take_body);
    SET(CURLOPT_WRITEDATA, (void *)request);
#undef SET
    // Not in libcurl before 7.54; the answers of a proxy are told from the server's by their order too.
    curl.easy_setopt(handle, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    if (code == CURLE_OK) code = curl.easy_perform(handle);
    curl.easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &outcome->response_code);
    if (code != CURLE_OK) {
        snprintf(
            outcome->message, sizeof outcome->message, "%s", reason[0] != 0 ? reason : curl.easy_strerror(code));
    }
    curl.slist_free_all(headers);
    curl.easy_cleanup(handle);
    return status_of(code);
}
