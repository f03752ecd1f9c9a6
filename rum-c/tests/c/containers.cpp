// Containers of the standard library, several times larger than the local budget, against plain ones.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory_resource>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <rum.hpp>

#define CHECK(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                       \
            std::exit(1);                                                                                              \
        }                                                                                                              \
    } while (0)

template <class T> using far_vector = std::vector<T, rum::allocator<T>>;
using far_string = std::basic_string<char, std::char_traits<char>, rum::allocator<char>>;

// Lives until after the handlers of exit: its memory must still be there.
static far_vector<int> *outliving = nullptr;
struct Last {
    ~Last() {
        if (outliving)
            delete outliving;
    }
} last;

static void vectors() {
    far_vector<std::uint64_t> numbers;
    for (std::uint64_t i = 0; i < 1'500'000; i++) // 12 MB, growing
        numbers.push_back(i * 0x9E3779B97F4A7C15u);
    for (std::uint64_t i = 0; i < numbers.size(); i++)
        CHECK(numbers[i] == i * 0x9E3779B97F4A7C15u);
    far_vector<std::uint64_t> copy = numbers;
    std::swap(copy, numbers);
    CHECK(copy == numbers);
    bool thrown = false;
    try {
        far_vector<char> huge(std::size_t(1) << 40);
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown);
    struct alignas(64) Line {
        char bytes[64];
    };
    far_vector<Line> lines(1000);
    for (auto &line : lines)
        CHECK(reinterpret_cast<std::uintptr_t>(&line) % 64 == 0);
}

template <class Far, class Plain> static void same(Far &far, Plain &plain, unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 120'000; i++) {
        unsigned key = random() % 60'000;
        if (random() % 4 == 0) {
            CHECK(far.erase(key) == plain.erase(key));
        } else {
            std::string text = "value of " + std::to_string(key) + " at " + std::to_string(i) + std::string(40, '.');
            far[key] = far_string(text.begin(), text.end());
            plain[key] = text;
        }
    }
    CHECK(far.size() == plain.size());
    for (auto &[key, text] : plain) {
        auto found = far.find(key);
        CHECK(found != far.end() && std::string(found->second.begin(), found->second.end()) == text);
    }
}

static void maps() {
    std::unordered_map<unsigned, far_string, std::hash<unsigned>, std::equal_to<unsigned>,
                       rum::allocator<std::pair<const unsigned, far_string>>>
        far_hash;
    std::unordered_map<unsigned, std::string> plain_hash;
    same(far_hash, plain_hash, 1);
    std::map<unsigned, far_string, std::less<unsigned>, rum::allocator<std::pair<const unsigned, far_string>>> far_tree;
    std::map<unsigned, std::string> plain_tree;
    same(far_tree, plain_tree, 2);
}

static void polymorphic() {
    std::pmr::vector<std::pmr::string> names(rum::get_resource());
    for (int i = 0; i < 60'000; i++)
        names.emplace_back("a name that does not fit into the string itself, number " + std::to_string(i));
    for (int i = 0; i < 60'000; i++)
        CHECK(std::string_view(names[i]) == "a name that does not fit into the string itself, number " + std::to_string(i));
    rum::memory_resource other;
    CHECK(other == *rum::get_resource() && *rum::get_resource() != *std::pmr::new_delete_resource());
    std::pmr::monotonic_buffer_resource pool(&other);
    std::pmr::map<int, int> map(&pool);
    for (int i = 0; i < 100'000; i++)
        map[i] = i * 3;
    for (auto &[key, value] : map)
        CHECK(value == key * 3);
}

// C++ streams with far buffers of 10 MiB: libstdc++ hands large requests to the kernel as they are.
static void streams() {
    const std::size_t bytes = 10 << 20;
    far_vector<char> out(bytes), in(bytes);
    for (std::size_t i = 0; i < bytes; i++)
        out[i] = char(i * 2654435761u >> 11);
    std::ofstream("streams.data", std::ios::binary).write(out.data(), bytes).flush();
    std::ifstream file("streams.data", std::ios::binary);
    file.read(in.data(), bytes);
    CHECK(std::size_t(file.gcount()) == bytes && in == out);
    file.seekg(0);
    std::ostringstream all;
    all << file.rdbuf();
    CHECK(all.str().size() == bytes && std::equal(in.begin(), in.end(), all.str().begin()));
    CHECK(std::remove("streams.data") == 0);
}

static void threads() {
    std::vector<std::thread> running;
    for (unsigned seed = 1; seed <= 4; seed++)
        running.emplace_back([seed] {
            far_vector<unsigned> numbers(500'000);
            for (unsigned i = 0; i < numbers.size(); i++)
                numbers[i] = i * seed;
            for (unsigned i = 0; i < numbers.size(); i++)
                CHECK(numbers[i] == i * seed);
        });
    for (auto &thread : running)
        thread.join();
}

int main() {
    rum_init(nullptr);
    vectors();
    maps();
    polymorphic();
    streams();
    threads();
    outliving = new far_vector<int>(1'000'000, 7);
    std::puts("ok");
}
